"""Writes texts and the ids that open_clip gives them: `clip_tokenizer_more.json`.

Usage: python reference/make_clip_tokenizer_probes.py tests/fixtures [COUNT [SEED]]
       (open_clip_torch, ftfy 6.3, Python 3.11)

- `probes`: texts with their ids, without start, end and padding.
- `characters`: for each block of 256 characters, a digest of the ids of every assigned character in a
  few surroundings (FNV-1a over little-endian u32), so that all of Unicode is covered in a small file.
"""

import html.entities
import json
import random
import sys
import unicodedata

from open_clip.tokenizer import SimpleTokenizer

out = sys.argv[1]
count = int(sys.argv[2]) if len(sys.argv) > 2 else 1200
rng = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 3)
tokenizer = SimpleTokenizer()

WORDS = """a photo of the dog cat Über straße naïve façade Zürich Ελλάδα όδος ΑΣ Москва привет İzmir ışık
été à la là às àquele Œuvre cœur año ñandú 東京 猫です 这是一只猫 한국어 ไทย हिन्दी العربية שלום 🙂 👩‍👩‍👧‍👦 🇫🇷 ☔❤️ €5 £10 ½ ² ⅷ ٣ 100% it's
I'LL they'Ve don't 'S 'ſ rock'n'roll x=1;y<2 <b>bold</b> a_b-c/d\\e C++ #tag @user http://x.y/?a=b&c=d
“curly” ‘single’ „low” – — … • ™ © ® ﬁne ﬂy ǅ ŉ ＦＵＬＬ ｶﾀｶﾅ ﾊﾟ e\u0301 a\u030a\u0323 q\u0307\u0323 \u1e9b\u0323 K Å \u3000
zero\u200bwidth x\u200dy \u202ertl\u202c soft\u00adhyphen nb\u00a0sp \u2028 \u2029 \x85 <start_of_text> <END_of_text>
<|startoftext|> <|endoftext|> \x1b[31mred\x1b[0m \x1b[٣m \x00 \x07 \x0b \x0c \x1c \x1f \x7f \ufeff \ufffc \ufffd \u206a antidisestablishmentarianism
supercalifragilisticexpialidocious 1234567890 aaaaaaaaaaaaaaaaaaaaaaaa !!!!!!!! ?!?! ... ~~~ ^_^ (ツ) ಠ_ಠ""".split(" ")
ENCODINGS = ["latin-1", "cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "cp1257", "iso-8859-2", "mac_roman", "cp437"]
NAMES = sorted(html.entities.html5)


def entity():
    name = rng.choice(NAMES)
    kind = rng.randrange(9)
    if kind == 0:
        name = name.upper()
    elif kind == 1:
        name = name.rstrip(";") + rng.choice(["", "x", ";x", "=1"])
    elif kind == 2:
        name = f"#{rng.choice([0, 13, 38, 59, 65, 127, 128, 133, 150, 159, 160, 8217, 55357, 65534, 128512, 10**9])}" + rng.choice([";", ""])
    elif kind == 3:
        name = f"#{rng.choice('xX')}{rng.choice([0x26, 0x41, 0x3C, 0x85, 0x92, 0xE9, 0x2019, 0x1F600]):x}" + rng.choice([";", "", "g;"])
    elif kind == 4:
        name = "amp;" * rng.randrange(1, 4) + name
    return "&" + name


def mojibake():
    text = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 4)))
    for _ in range(rng.choice([1, 1, 1, 2])):
        errors = rng.choice(["sloppy", "replace", "ignore"])
        encoding = rng.choice(ENCODINGS)
        data = text.encode("utf-8", "surrogatepass")
        if rng.random() < 0.08:  # surrogate pairs
            data = b"".join(c.encode("utf-16-be") and (
                c.encode("utf-8") if ord(c) < 0x10000 else
                "".join(map(chr, (0xD7C0 + (ord(c) >> 10), 0xDC00 + (ord(c) & 0x3FF)))).encode("utf-8", "surrogatepass"))
                for c in text)
        if rng.random() < 0.05:
            data += b"\xc0\x80"
        if errors == "sloppy":
            text = "".join(bytes([b]).decode(encoding, "replace").replace("\ufffd", chr(b)) for b in data)
        else:
            text = data.decode(encoding, errors)
    if rng.random() < 0.3:
        text = text.replace("\xa0", " ")
    if rng.random() < 0.1:
        text = text.replace("\ufffd", "?")
    if rng.random() < 0.1:
        text = text.upper() if rng.random() < 0.5 else text[: len(text) // 2]
    return text


# Neighbours of characters that mojibake is made of, also where it is none.
SUSPECTS = sorted({bytes([b]).decode(e, "replace") for b in range(128, 256) for e in ENCODINGS})


def suspects():
    return "".join(rng.choice(SUSPECTS + list(" aZ?\n")) for _ in range(rng.randrange(2, 9)))


def any_characters():
    ranges = [(0, 0x100), (0, 0x3000), (0, 0x10000), (0x1F000, 0x1FAFF), (0, 0x110000)]
    text = ""
    for _ in range(rng.randrange(1, 12)):
        c = chr(rng.randrange(*rng.choice(ranges)))
        if unicodedata.category(c) not in ("Cs", "Cn"):
            text += c
    return text


def sentence():
    makers = [lambda: rng.choice(WORDS)] * 6 + [entity, mojibake, suspects, any_characters]
    length = 90 if rng.random() < 0.02 else rng.randrange(1, 9)
    spaces = [" "] * 8 + ["", "  ", "\n", "\t", "\r\n", "\xa0", "\u2003"]
    return "".join(rng.choice(makers)() + rng.choice(spaces) for _ in range(length))


def text():
    return rng.choice([sentence, sentence, mojibake, suspects, entity, any_characters])()


def ids(text):
    row = tokenizer([text])[0].tolist()
    while row and row[-1] == 0:
        row.pop()
    assert row[0] == tokenizer.sot_token_id and row[-1] == tokenizer.eot_token_id
    return row[1:-1]


def surroundings(c):
    return [f"x{c}y", f"'{c} {c.upper()}1{c}", f"é{c}\u0301Ã{c}"]


def digest(texts):
    h = 0xCBF29CE484222325
    for text in texts:
        for i in ids(text) + [tokenizer.eot_token_id]:
            for b in i.to_bytes(4, "little"):
                h = (h ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def runs(numbers):
    result = []
    for n in numbers:
        if result and result[-1][1] == n - 1:
            result[-1][1] = n
        else:
            result.append([n, n])
    return result


probes = []
while len(probes) < count:
    t = text()
    if any(0xD800 <= ord(c) < 0xE000 for c in t):
        continue
    probes.append({"text": t, "ids": ids(t)})
characters = []
for block in range(0, 0x110000, 256):
    # Private use and planes of ideographs repeat themselves: every 16th block of them is enough.
    if block >= 0x2F00 and block // 256 % 16 and unicodedata.category(chr(block)) in ("Lo", "Co"):
        continue
    assigned = [c for c in range(block, block + 256) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
    if assigned:
        texts = [t for c in assigned for t in surroundings(chr(c))]
        characters.append({"characters": runs(assigned), "digest": digest(texts)})
with open(f"{out}/clip_tokenizer_more.json", "w", encoding="utf-8") as f:
    f.write('{"probes": [\n')
    f.write(",\n".join(json.dumps(p, separators=(",", ":")) for p in probes))
    f.write('\n], "characters": [\n')
    f.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in characters))
    f.write("\n]}\n")
