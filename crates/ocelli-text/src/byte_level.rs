//! The printable alphabet in which byte-level BPE files spell bytes.
//!
//! Follows `bytes_to_unicode` of GPT-2 (openai/gpt-2, `src/encoder.py`): a byte that prints in
//! Latin-1 stands for itself; the other 68 become U+0100, U+0101, … in order.

/// The character that spells each byte.
const CHARS: [char; 256] = spell_bytes();

/// All bytes in the order in which CLIP numbers them: those that stand for themselves, then the others.
pub(crate) const BYTES_IN_ORDER: [u8; 256] = order_bytes();

const fn prints(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

const fn order_bytes() -> [u8; 256] {
    let mut order = [0; 256];
    let (mut first, mut last) = (0, 188);
    let mut byte = 0;
    while byte < 256 {
        let at = if prints(byte as u8) { &mut first } else { &mut last };
        order[*at] = byte as u8;
        *at += 1;
        byte += 1;
    }
    order
}

const fn spell_bytes() -> [char; 256] {
    let mut chars = ['\0'; 256];
    let mut unprintable = 0;
    let mut byte = 0;
    while byte < 256 {
        let printable = prints(byte as u8);
        let code = if printable { byte } else { 0x100 + unprintable };
        if !printable {
            unprintable += 1;
        }
        chars[byte as usize] = match char::from_u32(code) {
            Some(c) => c,
            None => panic!("codes below U+0144 are characters"),
        };
        byte += 1;
    }
    chars
}

/// The character that spells `byte` in a vocabulary file.
pub(crate) fn spell(byte: u8) -> char {
    CHARS[usize::from(byte)]
}

/// The byte that `c` spells, or `None` when `c` is outside the alphabet.
fn unspell(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The bytes a token stands for.
///
/// A token with any character outside the alphabet stands for its own UTF-8 bytes: this is what
/// the `tokenizers` library does with added tokens, and decoding must agree with it.
pub(crate) fn token_bytes(token: &str) -> Vec<u8> {
    let spelled: Option<Vec<u8>> = token.chars().map(unspell).collect();
    spelled.unwrap_or_else(|| token.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character_and_comes_back() {
        for byte in 0..=255 {
            assert_eq!(unspell(spell(byte)), Some(byte));
        }
        assert_eq!([spell(b' '), spell(b'\n'), spell(b'a')], ['Ġ', 'Ċ', 'a']);
    }

    #[test]
    fn characters_outside_the_alphabet_keep_their_utf8_bytes() {
        assert_eq!(token_bytes("Ġa"), b" a");
        assert_eq!(token_bytes("é"), [0xe9]);
        assert_eq!(token_bytes("é猫"), "é猫".as_bytes());
        for c in ['\u{20}', '\u{7f}', '\u{a0}', '\u{ad}', '\u{144}'] {
            assert_eq!(unspell(c), None);
        }
    }
}
