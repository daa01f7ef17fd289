#!/usr/bin/env python3
"""Cuts the fonts of this folder out of their originals (fonttools); README.md says where those come from.

    subset.py DIR_WITH_THE_ORIGINALS
"""
import re
import sys
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

HERE = Path(__file__).parent
ICONS = [int(code, 16) for code in re.findall(r"icon\(0x([0-9A-F]+)", (HERE / "../src/icons.rs").read_text())]
# The solid font shows these so that another name would come first.
NOT_SOLID = {0x1F512, 0x1F4BB, 0x1F401}
LETTERS = [ord(c) for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"]
TEXT = {
    "DejaVuSans": "DejaVuSans",
    "DejaVuSans-Bold": "DejaVuSans-Bold",
    "DejaVuSerif": "DejaVuSerif",
    "DejaVuSansMono-Bold": "DejaVuSansMono-Bold",
    "NotoSans-Regular": "NotoSans-Regular",
    "NotoSerif-Bold": "NotoSerif-Bold",
    "Roboto-Regular": "Roboto-Regular",
    "Roboto-Bold": "Roboto-Bold",
}


def cut(original, name, characters):
    font = TTFont(original)
    options = subset.Options()
    options.hinting = False
    options.layout_features = []
    options.name_IDs = [0, 1, 2, 3, 4, 5, 6, 7, 13, 14]
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "kern", "STAT", "DSIG", "meta", "MATH", "FFTM"]
    options.recalc_timestamp = False
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=characters)
    cutter.subset(font)
    font.save(HERE / f"{name}.ttf")
    missing = [hex(c) for c in characters if c not in font.getBestCmap()]
    print(name, (HERE / f"{name}.ttf").stat().st_size, "bytes, without", missing)


originals = Path(sys.argv[1])
for name, source in TEXT.items():
    cut(originals / f"{source}.ttf", name, LETTERS)
cut(originals / "NotoEmoji_500Medium.ttf", "NotoEmoji-Medium", ICONS)
cut(originals / "NotoEmoji-Regular.ttf", "NotoEmoji-Solid", [c for c in ICONS if c not in NOT_SOLID])
