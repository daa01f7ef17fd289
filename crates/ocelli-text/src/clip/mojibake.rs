//! Repairs text that was encoded as UTF-8 and decoded as something else ("sÃ³" for "só").
//!
//! Decides as `ftfy.fix_encoding` does (ftfy 6.3, Robyn Speer, <https://ftfy.readthedocs.io>), since
//! CLIP was trained on text that went through ftfy. The pairs of characters that betray mojibake are
//! its `badness.py`; the encodings and their order are its `chardata.py`.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::tables;

/// How often a repaired part may itself hold a damaged part; real text needs two.
const MAX_DEPTH: usize = 32;

/// Returns `text` with its mojibake repaired, or as it is where it looks right.
pub(super) fn fix_encoding(text: &str) -> String {
    fix_encoding_at(text, 0)
}

fn fix_encoding_at(text: &str, depth: usize) -> String {
    let mut text = text.to_owned();
    while let Some(fixed) = fix_once(&text, depth) {
        if fixed == text {
            break;
        }
        text = fixed;
    }
    text
}

/// Undoes one wrong decoding; `None` where nothing looks wrong or nothing helps.
fn fix_once(text: &str, depth: usize) -> Option<String> {
    if text.is_ascii() || !is_bad(text) {
        return None;
    }
    let mut is_latin_1 = false;
    for encoding in ENCODINGS.iter() {
        let Some(bytes) = encoding.encode(text) else { continue };
        is_latin_1 |= encoding.kind == Kind::Latin1;
        if let Some(fixed) = decode_damaged_utf8(bytes, encoding.kind) {
            return Some(fixed);
        }
    }
    if depth < MAX_DEPTH {
        let fixed = fix_parts(text, depth);
        if fixed != text {
            return Some(fixed);
        }
    }
    // Latin-1 with C1 controls that Windows-1252 has characters for; five bytes have none there.
    let unassigned = ['\u{81}', '\u{8d}', '\u{8f}', '\u{90}', '\u{9d}'];
    if is_latin_1 && !text.contains(unassigned) || text.contains(is_c1) {
        return Some(fix_c1_controls(text));
    }
    None
}

/// Returns `text` with C1 control characters read as Windows-1252, as browsers do.
pub(super) fn fix_c1_controls(text: &str) -> String {
    let upper: Vec<char> = tables::WINDOWS_1252.chars().collect();
    text.chars().map(|c| if is_c1(c) { upper[c as usize - 0x80] } else { c }).collect()
}

fn is_c1(c: char) -> bool {
    ('\u{80}'..='\u{9f}').contains(&c)
}

/// Repairs the parts of `text` that look like UTF-8 in some encoding, each on its own.
fn fix_parts(text: &str, depth: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut fixed = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = utf8_lookalike_end(&chars, at);
        if end == at {
            fixed.push(chars[at]);
            at += 1;
            continue;
        }
        let part: String = chars[at..end].iter().collect();
        let shorter = end - at < chars.len();
        fixed += &if shorter && is_bad(&part) { fix_encoding_at(&part, depth + 1) } else { part };
        at = end;
    }
    fixed
}

/// The end of the longest run of characters from `start` that look like the bytes of UTF-8 sequences.
fn utf8_lookalike_end(chars: &[char], start: usize) -> usize {
    let is = |at: usize, class| chars.get(at).is_some_and(|c| classes(*c) & class != 0);
    if start > 0 && is(start - 1, CONTINUATION_STRICT) {
        return start;
    }
    let mut end = start;
    loop {
        let firsts = [(FIRST_OF_2, 1), (FIRST_OF_3, 2), (FIRST_OF_4, 3)];
        let fits = |&(first, more): &(u32, usize)| {
            is(end, first) && (end + 1..=end + more).all(|at| is(at, CONTINUATION))
        };
        match firsts.iter().find(|sequence| fits(sequence)) {
            Some((_, more)) => end += 1 + more,
            None => return end,
        }
    }
}

/// Decodes `bytes` as UTF-8 after repairing what programs commonly do to it; `None` if it is not UTF-8.
fn decode_damaged_utf8(mut bytes: Vec<u8>, kind: Kind) -> Option<String> {
    // In Mac Roman this would match a dash before a space.
    if kind != Kind::MacRoman && (0..bytes.len()).any(|at| spaced_sequence(&bytes[at..]).is_some()) {
        bytes = restore_a0(&bytes);
    }
    if kind == Kind::Sloppy {
        bytes = replace_matches(&bytes, lossy_sequence, |_| "\u{fffd}".as_bytes().to_vec());
    }
    if bytes.iter().any(|byte| matches!(byte, 0xed | 0xc0)) {
        decode_utf8_variants(&bytes)
    } else {
        String::from_utf8(bytes).ok()
    }
}

/// Copies `bytes`, each match (a length from `find` at that place) replaced.
fn replace_matches(
    bytes: &[u8],
    find: impl Fn(&[u8]) -> Option<usize>,
    replacement: impl Fn(&[u8]) -> Vec<u8>,
) -> Vec<u8> {
    let mut result = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match find(&bytes[at..]) {
            Some(length) => {
                result.extend(replacement(&bytes[at..at + length]));
                at += length;
            }
            None => {
                result.push(bytes[at]);
                at += 1;
            }
        }
    }
    result
}

/// Puts back bytes A0, the no-break space, which programs turn into plain spaces.
fn restore_a0(bytes: &[u8]) -> Vec<u8> {
    let bytes = replace_matches(bytes, a_grave_word, |_| b"\xc3\xa0 ".to_vec());
    let restore = |found: &[u8]| found.iter().map(|&byte| if byte == b' ' { 0xa0 } else { byte }).collect();
    replace_matches(&bytes, spaced_sequence, restore)
}

/// The word "à", whose space is kept; not before another space or in the Portuguese "às", "àquele".
fn a_grave_word(bytes: &[u8]) -> Option<usize> {
    let rest = bytes.strip_prefix(b"\xc3 ")?;
    let others: [&[u8]; 5] = [b" ", b"quele", b"quela", b"quilo", b"s "];
    (!others.iter().any(|other| rest.starts_with(other))).then_some(2)
}

/// The length of a likely UTF-8 sequence at the start of `bytes` in which a space stands for A0.
fn spaced_sequence(bytes: &[u8]) -> Option<usize> {
    let later = |byte: u8| (0x80..=0xbf).contains(&byte);
    let likely = |byte: u8| later(byte) && byte != 0x85 && byte != 0xa0;
    match *bytes {
        [0xc2 | 0xc3 | 0xc5 | 0xce | 0xd0 | 0xd9, b' ', ..] => Some(2),
        [0xe2 | 0xe3, b' ', c, ..] if likely(c) => Some(3),
        [0xe0..=0xe3, b, b' ', ..] if likely(b) => Some(3),
        [0xf0, b' ', c, d, ..] if later(c) && later(d) => Some(4),
        [0xf0, b, b' ', d, ..] if later(b) && later(d) => Some(4),
        [0xf0, b, c, b' ', ..] if later(b) && later(c) => Some(4),
        _ => None,
    }
}

/// The length of a UTF-8 sequence at the start of `bytes` of which bytes were lost: 1A (or, once, `?`).
fn lossy_sequence(bytes: &[u8]) -> Option<usize> {
    let lost = |byte: u8| byte == 0x1a || byte == b'?';
    let there = |byte: u8| (0x80..=0xbf).contains(&byte);
    let any = |byte: u8| byte == 0x1a || there(byte);
    let low = |byte: u8| (0xb0..=0xbf).contains(&byte);
    match *bytes {
        [0xc2..=0xdf, 0x1a, ..] | [0xc2..=0xc3, b'?', ..] => Some(2),
        [0xed, 0xa0..=0xaf, b, 0xed, c, d, ..] if lost(b) && low(c) && (lost(d) || there(d)) => Some(6),
        [0xed, 0xa0..=0xaf, b, 0xed, c, d, ..] if (lost(b) || there(b)) && low(c) && lost(d) => Some(6),
        [0xe0..=0xef, b, c, ..] if lost(b) && any(c) || any(b) && lost(c) => Some(3),
        [0xf0..=0xf4, b, c, d, ..]
            if lost(b) && any(c) && any(d) || any(b) && lost(c) && any(d) || any(b) && any(c) && lost(d) =>
        {
            Some(4)
        }
        [0x1a, ..] => Some(1),
        _ => None,
    }
}

/// Decodes UTF-8 with surrogate pairs (CESU-8) and Java's null, C0 80.
fn decode_utf8_variants(bytes: &[u8]) -> Option<String> {
    let mut text = String::new();
    let (mut at, mut plain) = (0, 0);
    while at < bytes.len() {
        let (c, length) = match bytes[at..] {
            // At the end ftfy takes a line break for the 80.
            [0xc0, 0x80, ..] | [0xc0, b'\n'] => ('\0', 2),
            [0xed, high @ 0xa0..=0xaf, b, 0xed, low @ 0xb0..=0xbf, d, ..]
                if matches!(b, 0x80..=0xbf) && matches!(d, 0x80..=0xbf) =>
            {
                let bits = |byte: u8, mask: u8, shift: u32| u32::from(byte & mask) << shift;
                let offset = bits(high, 0xf, 16) + bits(b, 0x3f, 10) + bits(low, 0xf, 6) + bits(d, 0x3f, 0);
                (char::from_u32(0x10000 + offset)?, 6)
            }
            _ => {
                at += 1;
                continue;
            }
        };
        text += str::from_utf8(&bytes[plain..at]).ok()?;
        text.push(c);
        at += length;
        plain = at;
    }
    text += str::from_utf8(&bytes[plain..]).ok()?;
    Some(text)
}

/// What sets encodings apart in the repair.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Latin1,
    /// A Windows encoding with Latin-1 in its gaps, and 1A for U+FFFD.
    Sloppy,
    MacRoman,
    Other,
}

/// A single-byte encoding that contains ASCII.
struct Encoding {
    kind: Kind,
    bytes: HashMap<char, u8>,
}

impl Encoding {
    fn new(kind: Kind, upper: &str) -> Self {
        let mut bytes: HashMap<char, u8> = (0..0x80).map(|byte| (char::from(byte), byte)).collect();
        if kind == Kind::Sloppy {
            bytes.remove(&'\u{1a}');
            bytes.insert('\u{fffd}', 0x1a);
        }
        bytes.extend(upper.chars().zip(0x80..=0xff));
        Self { kind, bytes }
    }

    /// The bytes that decode to `text`, if there are any.
    fn encode(&self, text: &str) -> Option<Vec<u8>> {
        text.chars().map(|c| self.bytes.get(&c).copied()).collect()
    }
}

/// In the order in which they are tried.
static ENCODINGS: LazyLock<[Encoding; 10]> = LazyLock::new(|| {
    let latin_1: String = ('\u{80}'..='\u{ff}').collect();
    [
        Encoding::new(Kind::Latin1, &latin_1),
        Encoding::new(Kind::Sloppy, tables::WINDOWS_1252),
        Encoding::new(Kind::Sloppy, tables::WINDOWS_1251),
        Encoding::new(Kind::Sloppy, tables::WINDOWS_1250),
        Encoding::new(Kind::Sloppy, tables::WINDOWS_1253),
        Encoding::new(Kind::Sloppy, tables::WINDOWS_1254),
        Encoding::new(Kind::Sloppy, tables::WINDOWS_1257),
        Encoding::new(Kind::Other, tables::ISO_8859_2),
        Encoding::new(Kind::MacRoman, tables::MACROMAN),
        Encoding::new(Kind::Other, tables::CP437),
    ]
});

// Classes of characters, one bit each.
const COMMON: u32 = 1;
const C1: u32 = 1 << 1;
const BAD: u32 = 1 << 2;
const LAW: u32 = 1 << 3;
const CURRENCY: u32 = 1 << 4;
const START: u32 = 1 << 5;
const END: u32 = 1 << 6;
const NUMERIC: u32 = 1 << 7;
const KAOMOJI: u32 = 1 << 8;
const UPPER: u32 = 1 << 9;
const LOWER: u32 = 1 << 10;
const UPPER_COMMON: u32 = 1 << 11;
const LOWER_COMMON: u32 = 1 << 12;
const BOX: u32 = 1 << 13;
const FIRST_OF_2: u32 = 1 << 14;
const FIRST_OF_3: u32 = 1 << 15;
const FIRST_OF_4: u32 = 1 << 16;
const CONTINUATION: u32 = 1 << 17;
const CONTINUATION_STRICT: u32 = 1 << 18;
const CAPITAL_A_TO_Z: u32 = 1 << 19;
const SMALL_A_TO_Z: u32 = 1 << 20;
const NO_A_TO_Z: u32 = 1 << 21;
const SPACE: u32 = 1 << 22;
const WORD: u32 = 1 << 23;
const ON_THE_LINE: u32 = 1 << 24;

const A_TO_Z: u32 = CAPITAL_A_TO_Z | SMALL_A_TO_Z;

static TABLED: LazyLock<HashMap<char, u32>> = LazyLock::new(|| {
    let c1: String = ('\u{80}'..='\u{9f}').collect();
    let sets = [
        (COMMON, tables::COMMON),
        (C1, &c1),
        (BAD, tables::BAD),
        (LAW, tables::LAW),
        (CURRENCY, tables::CURRENCY),
        (START, tables::START_PUNCTUATION),
        (END, tables::END_PUNCTUATION),
        (NUMERIC, tables::NUMERIC),
        (KAOMOJI, tables::KAOMOJI),
        (UPPER, tables::UPPER_ACCENTED),
        (LOWER, tables::LOWER_ACCENTED),
        (UPPER_COMMON, tables::UPPER_COMMON),
        (LOWER_COMMON, tables::LOWER_COMMON),
        (BOX, tables::BOX),
        (FIRST_OF_2, tables::UTF8_FIRST_OF_2),
        (FIRST_OF_3, tables::UTF8_FIRST_OF_3),
        (FIRST_OF_4, tables::UTF8_FIRST_OF_4),
        (CONTINUATION, tables::UTF8_CONTINUATION),
        (CONTINUATION_STRICT, tables::UTF8_CONTINUATION_STRICT),
    ];
    let mut classes = HashMap::new();
    for (class, members) in sets {
        for c in members.chars() {
            *classes.entry(c).or_insert(0) |= class;
        }
    }
    classes
});

/// The classes that `c` is in.
fn classes(c: char) -> u32 {
    let letters = match c {
        'A'..='Z' => CAPITAL_A_TO_Z,
        'a'..='z' => SMALL_A_TO_Z,
        _ => NO_A_TO_Z,
    };
    let space = if super::clean::is_space(c) { SPACE } else { 0 };
    let word = if super::clean::is_word(c) { WORD } else { 0 };
    let on_the_line = if c == '\n' { 0 } else { ON_THE_LINE };
    TABLED.get(&c).copied().unwrap_or(0) | letters | space | word | on_the_line
}

/// One place of a rule: a character in one of `classes`, or one of `chars`.
struct Place {
    classes: u32,
    chars: &'static str,
}

const fn of(classes: u32) -> Place {
    Place { classes, chars: "" }
}

const fn chars(chars: &'static str) -> Place {
    Place { classes: 0, chars }
}

const fn both(classes: u32, chars: &'static str) -> Place {
    Place { classes, chars }
}

/// Neighbours that hardly ever stand in good text.
const RULES: &[&[Place]] = &[
    &[of(C1)],
    &[of(BAD | LOWER | UPPER | BOX | START | END | CURRENCY | NUMERIC | LAW), of(BAD)],
    &[of(A_TO_Z), of(LOWER_COMMON | UPPER_COMMON), of(BAD)],
    &[of(BAD), of(LOWER | UPPER | BOX | START | END | CURRENCY | NUMERIC | LAW)],
    &[of(LOWER | LOWER_COMMON | BOX | END | CURRENCY | NUMERIC), of(UPPER)],
    &[of(BOX | END | CURRENCY | NUMERIC), of(LOWER)],
    &[of(LOWER | BOX | END), of(CURRENCY)],
    &[of(SPACE), of(UPPER), of(CURRENCY)],
    &[of(UPPER | BOX), of(NUMERIC | LAW)],
    &[of(LOWER | UPPER | BOX | CURRENCY | END), of(START), of(NUMERIC)],
    &[of(LOWER | UPPER | CURRENCY | NUMERIC | BOX | LAW), of(END), of(START)],
    &[of(CURRENCY | NUMERIC | BOX), of(START)],
    &[of(SMALL_A_TO_Z), of(UPPER), of(START | CURRENCY)],
    &[of(BOX), of(KAOMOJI)],
    &[of(LOWER | UPPER | CURRENCY | NUMERIC | START | END | LAW), of(BOX)],
    &[of(BOX), of(END)],
    &[of(LOWER | UPPER), of(START | END), of(WORD)],
    &[chars("Œœ"), of(NO_A_TO_Z)],
    &[of(UPPER), chars("°")],
    // Two characters of Windows-1252.
    &[chars("ÂÃÎÐ"), both(START | END, "€œŠš¢£Ÿž\u{a0}\u{ad}®©°·»–—´")],
    &[chars("×"), chars("²³")],
    // Arabic in Windows-1252.
    &[
        chars("ØÙ"),
        both(COMMON | CURRENCY | BAD | NUMERIC | START, "ŸŠ®°µ»"),
        chars("ØÙ"),
        both(COMMON | CURRENCY | BAD | NUMERIC | START, "ŸŠ®°µ»"),
    ],
    // South Asian scripts in Windows-1252.
    &[chars("à"), chars("²µ¹¼½¾")],
    // Mac Roman.
    &[chars("√"), chars("±∂†≠®™´≤≥¥µø")],
    &[chars("≈"), chars("°¢")],
    &[chars("‚"), chars("Ä"), chars("ìîïòôúùû†°¢π")],
    &[chars("‚"), chars("âó"), chars("àä°ê")],
    // General punctuation, Latin-1 and Cyrillic in Windows-1251.
    &[chars("в"), chars("Ђ")],
    &[chars("ВГРС"), both(C1 | BAD | START | END | CURRENCY, "°µ"), chars("ВГРС")],
    &[chars("Г"), chars("ў"), chars("В"), chars("Ђ"), chars("В"), of(ON_THE_LINE), both(A_TO_Z, " ")],
    // "à", "á" and the no-break space in Windows-1252.
    &[chars("Ã"), chars("\u{a0}¡")],
    &[of(SMALL_A_TO_Z), chars("ÃÂ"), chars(" ")],
    &[of(SMALL_A_TO_Z), of(SPACE), chars("ÃÂ"), chars(" ")],
    &[both(SMALL_A_TO_Z | END, ".,?!"), chars("Â"), both(START | END, " ")],
    // General punctuation, Latin-1 and Greek in Windows-1253.
    &[chars("β"), chars("€"), chars("™\u{a0}Ά\u{ad}®°")],
    &[chars("ΒΓΞΟ"), both(C1 | BAD | START | END | CURRENCY, "°"), chars("ΒΓΞΟ")],
    // General punctuation in Windows-1257.
    &[chars("ā"), chars("€")],
];

/// Whether `text` holds neighbours that betray mojibake.
fn is_bad(text: &str) -> bool {
    let chars: Vec<char> = text.chars().collect();
    if let ['Ã' | 'Â', ' ', ..] = chars[..] {
        return true;
    }
    let classes: Vec<u32> = chars.iter().map(|c| classes(*c)).collect();
    let fits = |rule: &[Place], at: usize| {
        at + rule.len() <= chars.len()
            && rule
                .iter()
                .zip(at..)
                .all(|(place, at)| classes[at] & place.classes != 0 || place.chars.contains(chars[at]))
    };
    (0..chars.len()).any(|at| RULES.iter().any(|rule| fits(rule, at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_one_and_two_wrong_decodings() {
        assert_eq!(fix_encoding("sÃ³"), "só");
        assert_eq!(fix_encoding("schÃƒÂ¶n"), "schön");
        assert_eq!(fix_encoding("voilÃ  le travail"), "voilà le travail");
        assert_eq!(fix_encoding("âœ” No problems"), "✔ No problems");
        assert_eq!(fix_encoding("â€œ like this â€\u{fffd}"), "“ like this \u{fffd}");
    }

    #[test]
    fn leaves_good_text_alone() {
        for text in ["déjà vu", "Ωμέγα", "Ñandú", "été à la plage", "100 €", "¿Qué?", "Ünï", ""]
        {
            assert_eq!(fix_encoding(text), text);
        }
    }

    #[test]
    fn reads_surrogate_pairs_and_javas_null() {
        assert_eq!(decode_utf8_variants(b"\xed\xa0\xbd\xed\xb8\x8a!").as_deref(), Some("😊!"));
        assert_eq!(decode_utf8_variants(b"a\xc0\x80b").as_deref(), Some("a\0b"));
        assert_eq!(decode_utf8_variants(b"\xed\xa0\xbd"), None);
    }
}
