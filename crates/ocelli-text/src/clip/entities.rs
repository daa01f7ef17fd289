//! HTML character references, as Python's `html.unescape` and as ftfy reads them.
//!
//! The rules for broken references are those of the HTML standard
//! (<https://html.spec.whatwg.org/multipage/parsing.html#character-reference-state>).

use std::collections::HashMap;
use std::sync::LazyLock;

use super::tables;
use crate::unicode::to_uppercase;

/// Names, most with their semicolon, and what they stand for.
static NAMES: LazyLock<HashMap<&'static str, &'static str>> = LazyLock::new(|| {
    let rows = include_str!("entities.txt").split_terminator('\n').filter_map(|row| row.split_once(' '));
    rows.map(|(name, text)| (name, if text == "\\n" { "\n" } else { text })).collect()
});

/// Names in capitals that stand for capitals, such as `NTILDE;`; only where HTML itself reads nothing.
static SHOUTED: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    let small = NAMES.iter().filter(|(name, _)| name.ends_with(';') && **name == name.to_ascii_lowercase());
    let shouted = small.map(|(name, text)| (name.to_ascii_uppercase(), to_uppercase(text)));
    shouted.filter(|(name, _)| longest_name(name).is_none()).collect()
});

/// The longest character reference without `;` that HTML knows.
const MAX_NAME: usize = 32;

/// Returns `text` with every character reference replaced, those without semicolon too.
pub(super) fn unescape(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        result += &rest[..at];
        rest = &rest[at + 1..];
        if let Some((number, length)) = numeric(rest) {
            result.extend(number);
            rest = &rest[length..];
            continue;
        }
        let body = name_length(rest);
        match longest_name(&rest[..body]) {
            Some((name, stands_for)) => {
                result += stands_for;
                // What follows a known beginning is text, even if it holds no `&` of its own.
                result += &rest[name..body];
            }
            None => {
                result.push('&');
                result += &rest[..body];
            }
        }
        rest = &rest[body..];
    }
    result + rest
}

/// Returns `text` with references replaced that end in a semicolon, as `ftfy.fixes.unescape_html`.
pub(super) fn unescape_closed(text: &str) -> String {
    const LONGEST: usize = 24;
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        result += &rest[..at];
        rest = &rest[at..];
        let hash = usize::from(rest[1..].starts_with('#'));
        let name = rest[1 + hash..].bytes().take_while(u8::is_ascii_alphanumeric).count();
        let length = 1 + hash + name + 1;
        if !(1..=LONGEST).contains(&name) || rest.as_bytes().get(length - 1) != Some(&b';') {
            result.push('&');
            rest = &rest[1..];
            continue;
        }
        let found = &rest[..length];
        match closed(&found[1..]) {
            Some(stands_for) => result += &stands_for,
            None => result += found,
        }
        rest = &rest[length..];
    }
    result + rest
}

/// What `name;` or `#number;` stands for.
fn closed(name: &str) -> Option<String> {
    if let Some(text) = NAMES.get(name) {
        return Some((*text).to_owned());
    }
    if let Some(text) = SHOUTED.get(name) {
        return Some(text.clone());
    }
    let (number, length) = numeric(name)?;
    // A semicolon that is left over, or is itself the answer, means that nothing is replaced.
    (length == name.len() && number != Some(';')).then(|| number.into_iter().collect())
}

/// The length of what may be a name at the start of `text`, with its semicolon.
fn name_length(text: &str) -> usize {
    let ends = |c: char| matches!(c, '\t' | '\n' | '\u{c}' | ' ' | '<' | '&' | '#' | ';');
    let name: usize = text.chars().take_while(|c| !ends(*c)).take(MAX_NAME).map(char::len_utf8).sum();
    name + usize::from(name > 0 && text[name..].starts_with(';'))
}

/// The longest known name that `text` begins with: its length and what it stands for.
fn longest_name(text: &str) -> Option<(usize, &'static str)> {
    // Python tries names of two characters and more; there are none of one.
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
    ends.filter_map(|end| Some((end, *NAMES.get(&text[..end])?))).next()
}

/// The number at the start of `text`, `#65;` or `#x41`, as a character (none for one that HTML forbids),
/// and the length of what was read.
fn numeric(text: &str) -> Option<(Option<char>, usize)> {
    let digits = text.strip_prefix('#')?;
    let (digits, radix, before) = match digits.strip_prefix(['x', 'X']) {
        Some(hex) => (hex, 16, 2),
        None => (digits, 10, 1),
    };
    let count = digits.bytes().take_while(|byte| char::from(*byte).is_digit(radix)).count();
    if count == 0 {
        return None;
    }
    let value = |sum: u32, byte: u8| {
        let digit = char::from(byte).to_digit(radix).unwrap_or(0);
        sum.saturating_mul(radix).saturating_add(digit)
    };
    let code = digits.bytes().take(count).fold(0, value);
    let length = before + count + usize::from(digits[count..].starts_with(';'));
    Some((referenced(code), length))
}

fn referenced(code: u32) -> Option<char> {
    match code {
        0 => Some('\u{fffd}'),
        0x0d => Some('\r'),
        0x80..=0x9f => tables::WINDOWS_1252.chars().nth(code as usize - 0x80),
        0x01..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f | 0xfdd0..=0xfdef => None,
        _ if code & 0xfffe == 0xfffe && code <= 0x10_ffff => None,
        _ => Some(char::from_u32(code).unwrap_or('\u{fffd}')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_references_as_html_does() {
        let pairs = [
            ("a &amp; b &lt;", "a & b <"),
            ("&notit; &notin; &not", "¬it; ∉ ¬"),
            ("&#65;&#x42&#x1F600;&#0;&#128;&#xd800;&#1;", "AB😀\u{fffd}€\u{fffd}"),
            ("& &; &# &#x; &unknown; &&amp;", "& &; &# &#x; &unknown; &&"),
            ("&NewLine;&Tab;&nbsp", "\n\t\u{a0}"),
            ("&#99999999999999999999;", "\u{fffd}"),
        ];
        for (text, expected) in pairs {
            assert_eq!(unescape(text), expected, "{text}");
        }
        assert_eq!(NAMES.len(), 2231);
    }

    #[test]
    fn closed_references_need_their_semicolon() {
        let pairs = [
            ("&ntilde; &Ntilde; &NTILDE; &nTILDE;", "ñ Ñ Ñ &nTILDE;"),
            ("BUNDESSTRA&SZLIG;E", "BUNDESSTRASSE"),
            ("&amp &amp; &#59; &#12ab; &#x41;", "&amp & &#59; &#12ab; A"),
        ];
        for (text, expected) in pairs {
            assert_eq!(unescape_closed(text), expected, "{text}");
        }
    }
}
