"""Writes the data that the CLIP tokenizer is built with.

Usage: python reference/make_clip_data.py crates/ocelli-text/src/clip && cargo fmt
       (open_clip_torch, ftfy 6.3)

- `merges.bin`: CLIP's byte-pair merges (bpe_simple_vocab_16e6 of openai/CLIP, MIT), each as two
  little-endian u16 token ids. Merge i makes token 512 + i, so the 48,894 pairs are the whole vocabulary.
- `entities.txt`: the named character references of the HTML standard, one `name text` a line.
- `tables.rs`: character classes of mojibake (the facts in ftfy 6.3's badness.py and chardata.py) and
  single-byte encodings.
"""

import gzip
import html.entities
import os
import re
import struct
import sys

from ftfy import badness, chardata
from open_clip import tokenizer as open_clip_tokenizer

out = sys.argv[1]


def write(name, data):
    with open(os.path.join(out, name), "wb") as f:
        f.write(data)


def merges():
    lines = gzip.open(open_clip_tokenizer.default_bpe()).read().decode("utf-8").split("\n")
    pairs = [line.split() for line in lines[1 : 49152 - 256 - 2 + 1]]
    ids = open_clip_tokenizer.SimpleTokenizer().encoder
    assert all(ids[a + b] == 512 + i for i, (a, b) in enumerate(pairs))
    return b"".join(struct.pack("<HH", ids[a], ids[b]) for a, b in pairs)


def entities():
    rows = []
    for name, text in sorted(html.entities.html5.items()):
        # A newline cannot stand in a line; `NewLine;` is the only one.
        rows.append(f"{name} {text}\n" if text != "\n" else f"{name} \\n\n")
    return "".join(rows).encode("utf-8")


def literal(characters):
    """A Rust string literal, in lines; invisible characters are escaped."""
    pieces = []
    for c in characters:
        hidden = ord(c) < 0xA1 or c in "\xad\u2044\uf8ff\ufffd" or c in '"\\'
        pieces.append(f"\\u{{{ord(c):x}}}" if hidden else c)
    lines, line = [], ""
    for piece in pieces:
        if len(line) + len(piece) > 96:
            lines.append(line)
            line = ""
        line += piece
    lines.append(line)
    return '"' + "\\\n     ".join(lines) + '"'


def tables():
    rust = ["//! Character classes and encodings; written by `reference/make_clip_data.py`.\n"]

    def constant(name, doc, characters):
        rust.append(f"/// {doc}\npub(super) const {name}: &str = {literal(characters)};\n")

    def members(expression):
        one = re.compile(f"[{expression}]")
        return [chr(c) for c in range(0x10000) if not 0xD800 <= c < 0xE000 and one.match(chr(c))]

    docs = {
        "common": "In many contexts; not a sign of mojibake alone.",
        "bad": "Nearly only in mojibake.",
        "law": "In legal texts.",
        "currency": "Currency signs.",
        "start_punctuation": "Punctuation before a word.",
        "end_punctuation": "Punctuation after a word.",
        "numeric": "Beside numbers.",
        "kaomoji": "Letters that faces are drawn with.",
        "upper_accented": "Capital letters with accents.",
        "lower_accented": "Small letters with accents.",
        "upper_common": "Capital Greek and Cyrillic letters.",
        "lower_common": "Small Greek and Cyrillic letters.",
        "box": "Parts of boxes.",
    }
    for name, doc in docs.items():
        constant(name.upper(), doc, members(badness.MOJIBAKE_CATEGORIES[name]))
    clues = {
        "utf8_first_of_2": "What the first byte of a two-byte UTF-8 sequence may look like.",
        "utf8_first_of_3": "What the first byte of a three-byte UTF-8 sequence may look like.",
        "utf8_first_of_4": "What the first byte of a four-byte UTF-8 sequence may look like.",
        "utf8_continuation": "What a later byte of a UTF-8 sequence may look like.",
        "utf8_continuation_strict": "The same, without what often follows other text.",
    }
    for name, doc in clues.items():
        constant(name.upper(), doc, members(chardata.UTF8_CLUES[name]))
    for encoding in chardata.CHARMAP_ENCODINGS[1:]:
        name = encoding.removeprefix("sloppy-")
        upper = bytes(range(128, 256)).decode(encoding)
        constant(name.upper().replace("-", "_"), f"What bytes 128 to 255 stand for in {name}.", upper)
    return "\n".join(rust).encode("utf-8")


write("merges.bin", merges())
write("entities.txt", entities())
write("tables.rs", tables())
