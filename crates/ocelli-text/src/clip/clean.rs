//! What happens to text before CLIP's byte-pair encoding: `clean_fn` "lower" of open_clip's
//! `tokenizer.py`, which is `ftfy.fix_text` (6.3, default settings), HTML references twice, single
//! spaces, lower case.

use super::{entities, mojibake};
use crate::unicode::{is_digit, is_letter, is_number, to_lowercase, to_nfc, to_nfkc};

/// Returns `text` as CLIP sees it.
pub(super) fn clean(text: &str) -> String {
    let text = fix_text(text);
    let text = entities::unescape(&entities::unescape(&text));
    let words: Vec<&str> = text.split(is_space).filter(|word| !word.is_empty()).collect();
    to_lowercase(&words.join(" "))
}

/// Whether Python's `str.isspace` holds: white space and the four ASCII separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Whether Python's `\w` matches: a letter, a number or `_`.
pub(super) fn is_word(c: char) -> bool {
    is_letter(c) || is_number(c) || c == '_'
}

/// Repairs `text` line by line, as ftfy does.
fn fix_text(text: &str) -> String {
    // Markup from here on means that references are meant literally.
    let mut unescape = true;
    let mut fixed = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        for segment in segments(line) {
            unescape &= !segment.contains('<');
            fixed += &fix_segment(segment, unescape);
        }
    }
    fixed
}

/// Cuts a line after every million characters.
fn segments(line: &str) -> impl Iterator<Item = &str> {
    const LONGEST: usize = 1_000_000;
    let mut rest = line;
    std::iter::from_fn(move || {
        let end = rest.char_indices().nth(LONGEST).map_or(rest.len(), |(at, _)| at);
        let (segment, after) = rest.split_at(end);
        rest = after;
        (!segment.is_empty()).then_some(segment)
    })
}

/// Repeats all repairs until they change nothing.
fn fix_segment(segment: &str, unescape: bool) -> String {
    let mut text = segment.to_owned();
    loop {
        let mut fixed = if unescape { entities::unescape_closed(&text) } else { text.clone() };
        if !fixed.is_ascii() {
            fixed = mojibake::fix_c1_controls(&mojibake::fix_encoding(&fixed));
            fixed = straighten(&fixed);
        }
        fixed = fixed.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n");
        fixed = without_terminal_escapes(&fixed);
        fixed.retain(|c| !is_control(c));
        if !fixed.is_ascii() {
            fixed = to_nfc(&fixed);
        }
        if fixed == text {
            return text;
        }
        text = fixed;
    }
}

/// Takes out what `\x1b\[[\d;]*[a-zA-Z]` matches.
fn without_terminal_escapes(text: &str) -> String {
    const BEGIN: &str = "\x1b[";
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let after = rest[at + BEGIN.len()..].trim_start_matches(|c| is_digit(c) || c == ';');
        let is_escape = after.starts_with(|c: char| c.is_ascii_alphabetic());
        let end = rest.len() - after.len() + usize::from(is_escape);
        kept.push_str(&rest[..if is_escape { at } else { end }]);
        rest = &rest[end..];
    }
    kept + rest
}

/// Takes Latin ligatures apart, brings full and half width to the usual width, makes quotes straight.
fn straighten(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        match ligature(c) {
            Some(letters) => result.extend(letters.chars().map(straight_quote)),
            None if c == '\u{3000}' => result.push(' '),
            None if ('\u{ff01}'..='\u{ffef}').contains(&c) => result += &to_nfkc(c.encode_utf8(&mut [0; 4])),
            None => result.push(straight_quote(c)),
        }
    }
    result
}

fn ligature(c: char) -> Option<&'static str> {
    Some(match c {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "ʼn",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        _ => return None,
    })
}

fn straight_quote(c: char) -> char {
    match c {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' => '"',
        _ => c,
    }
}

/// Control characters that show nothing; joiners and direction marks are kept.
fn is_control(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{206a}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_as_open_clip_does() {
        let pairs = [
            ("  A\u{a0}Photo\tof\n\na CAT ", "a photo of a cat"),
            ("Broken text&hellip; it&#x2019;s ﬂubberiﬁc!", "broken text… it's flubberific!"),
            ("ＬＯＵＤ　ＮＯＩＳＥＳ Ｕﾀｰﾝ", "loud noises uターン"),
            ("\x1b[36;44mblue\x1b[0m\u{0}\u{feff}", "blue"),
            ("“quoted” ‘text’", "\"quoted\" 'text'"),
            ("&amp;amp;lt;", "<"),
            ("<b>&EACUTE;</b>", "<b>&eacute;</b>"),
            ("ΑΣ ΌΔΟΣ İ", "ας όδος i\u{307}"),
        ];
        for (text, expected) in pairs {
            assert_eq!(clean(text), expected, "{text:?}");
        }
    }
}
