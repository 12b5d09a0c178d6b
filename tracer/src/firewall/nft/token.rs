//! Words of nft's output.

/// Splits into words; quoted strings lose their quotes, braces and the commas between elements
/// are words of their own, parentheses vanish (nft prints them around flag lists only).
pub(in crate::firewall) fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let inner = rest.get(1..).unwrap_or_default();
            let (word, after) = inner.split_once('"').unwrap_or((inner, ""));
            words.push(word.to_owned());
            rest = after.trim_start();
            continue;
        }
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after.trim_start();
        let has_comma = word.ends_with(',');
        let word = word.trim_end_matches(',').trim_matches(['(', ')']);
        if !word.is_empty() {
            words.push(word.trim_matches('"').to_owned());
        }
        if has_comma {
            words.push(",".to_owned());
        }
    }
    words
}

/// Splits a list at its commas, those in quotes and braces left alone.
pub(in crate::firewall) fn split_list(text: &str) -> Vec<String> {
    let mut items = Vec::new();
    let mut item = String::new();
    let (mut is_quoted, mut depth) = (false, 0_i32);
    for c in text.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            '{' if !is_quoted => depth += 1,
            '}' if !is_quoted => depth -= 1,
            ',' if !is_quoted && depth == 0 => {
                items.push(std::mem::take(&mut item));
                continue;
            }
            _ => {}
        }
        item.push(c);
    }
    items.push(item);
    items.iter().map(|i| i.trim().to_owned()).filter(|i| !i.is_empty()).collect()
}

/// Braces opened and not closed, outside of quotes.
pub(in crate::firewall) fn depth(text: &str) -> i32 {
    let mut is_quoted = false;
    text.chars().fold(0, |depth, c| match c {
        '"' => {
            is_quoted = !is_quoted;
            depth
        }
        '{' if !is_quoted => depth + 1,
        '}' if !is_quoted => depth - 1,
        _ => depth,
    })
}
