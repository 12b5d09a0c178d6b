//! Elements of sets and maps.

use super::token::{Words, bare};
use crate::firewall::Element;

/// Words that say more about an element than its key: they come behind it.
const ABOUT: [&str; 7] = ["comment", "timeout", "expires", "counter", "limit", "quota", "ct"];

/// The elements in `words`, which stand between commas.
pub(super) fn all(words: &[String]) -> Vec<Element> {
    words.split(|word| word == ",").filter(|words| !words.is_empty()).map(one).collect()
}

/// `10.96.0.1 . tcp . 443 comment "…" : goto …`
pub(in crate::firewall) fn one(words: &[String]) -> Element {
    let colon = words.iter().position(|word| word == ":").unwrap_or(words.len());
    let (left, value) = words.split_at(colon);
    let about = left.iter().position(|word| ABOUT.contains(&word.as_str())).unwrap_or(left.len());
    let (key, about) = left.split_at(about);
    let comment = about.windows(2).find(|pair| pair[0] == "comment").map(|pair| bare(&pair[1]));
    Element {
        key: key.iter().filter(|word| *word != ".").cloned().collect(),
        value: value.get(1..).unwrap_or_default().to_vec(),
        comment: comment.map(str::to_owned),
    }
}

impl Element {
    /// As nft prints it.
    pub(super) fn words(&self) -> Words {
        let mut all = Words::new();
        for part in &self.key {
            if !all.is_empty() {
                all.push(".".to_owned());
            }
            all.push(part.clone());
        }
        if let Some(comment) = &self.comment {
            all.extend(["comment".to_owned(), format!("\"{comment}\"")]);
        }
        if !self.value.is_empty() {
            all.push(":".to_owned());
            all.extend(self.value.iter().cloned());
        }
        all
    }
}
