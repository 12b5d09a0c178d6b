//! Words of nft's language. A word in quotes is somebody's own text and keeps them, so that it is
//! never taken for a word of the language, whatever is in it.

/// Words one after another.
pub(in crate::firewall) type Words = Vec<String>;

/// One word.
pub(in crate::firewall) fn word(text: &str) -> String {
    text.to_owned()
}

/// Words of our own, with blanks between them.
pub(in crate::firewall) fn words(text: &str) -> Words {
    text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// A word without its quotes.
pub(in crate::firewall) fn bare(word: &str) -> &str {
    word.strip_prefix('"').map_or(word, |inner| inner.strip_suffix('"').unwrap_or(inner))
}

/// The words as nft prints them on one line; what would break the line is escaped.
pub(in crate::firewall) fn join(words: &[String]) -> String {
    let mut text = String::new();
    for word in words {
        if !text.is_empty() && word != "," {
            text.push(' ');
        }
        for c in word.chars() {
            if c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
    }
    text
}

/// Splits what nft printed; braces and the commas between elements are words of their own,
/// parentheses vanish (nft prints them around flag lists only).
pub(in crate::firewall) fn split(text: &str) -> Words {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let inner = rest.get(1..).unwrap_or_default();
            let (word, after) = inner.split_once('"').unwrap_or((inner, ""));
            words.push(format!("\"{word}\""));
            let (is_end, after) = after.strip_prefix(',').map_or((false, after), |a| (true, a));
            words.extend(is_end.then(|| ",".to_owned()));
            rest = after.trim_start();
            continue;
        }
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after.trim_start();
        let has_comma = word.ends_with(',');
        let word = word.trim_end_matches(',').trim_matches(['(', ')']);
        if !word.is_empty() {
            words.push(word.to_owned());
        }
        if has_comma {
            words.push(",".to_owned());
        }
    }
    words
}
