"""Writes tests/fixtures/train/reinforced.tar: three samples of a reinforced data set in the layouts that there are, with
numpy, PyTorch and tarfile.

    python reference/make_reinforced_fixtures.py [OUT]

Embeddings are rows of `made(shape, salt)` of make_train_fixtures.py, which the tests compute too. Versions that wrote the
stored file: torch 2.15, numpy 2.
"""

import gzip
import io
import json
import os
import sys
import tarfile

import numpy as np
import torch

sys.path.insert(0, os.path.dirname(__file__))
from make_train_fixtures import made  # noqa: E402

HERE = os.path.dirname(__file__)
IMAGES = os.path.join(HERE, "../tests/fixtures/images")
OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "../tests/fixtures/train")
COLUMNS = 5 + 3


def npz(save, **arrays):
    out = io.BytesIO()
    save(out, **arrays)
    return out.getvalue()


def pth_gz(tensors):
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as f:
        torch.save(tensors, f)
    return out.getvalue()


def augmentations(h, w):
    return [[[0, 0, h, w], [[0, 0.0], [5, 9.0]]], [[1, 2, h - 3, w - 5], [[13, 0.0], [3, -4.5]]], [[2, 0, h // 2, w // 2], None]]


def picture(name):
    with open(os.path.join(IMAGES, name), "rb") as f:
        return f.read()


def dump(value):
    return json.dumps(value).encode()


def main():
    a = augmentations(120, 160)
    rows = lambda n, salt: made([n, COLUMNS], salt)
    members = [
        # The first layout: the list as text, synthetic captions' rows behind the real one's.
        ("000.png", picture("rgb_160x120.png")), ("000.txt", b"a picture in colour"), ("000.json", b"{}"),
        ("000.url.txt", b"https://example.org/000.png"), ("000.paug.json", dump({"param_aug": json.dumps(a)})),
        ("000.syn.json", dump({"syn_text": ["colours", "many colours"]})),
        ("000.npz", npz(np.savez, image_emb=rows(3, 1).numpy(), text_emb=rows(3, 2).numpy())),
        # The second: rows of their own; half precision, compressed.
        ("part/001.jpg", picture("exif5_64x48.jpg")), ("part/001.txt", "zwölf".encode()),
        ("part/001.paug.json", dump({"param_aug": augmentations(48, 64)})),
        ("part/001.syn.json", dump({"syn_text_a": ["one", "two"], "syn_text_b": ["three"], "note": 7})),
        ("part/001.npz", npz(np.savez_compressed, image_emb=rows(3, 3).numpy().astype("float16"), text_emb=rows(1, 4).numpy(),
                             syn_text_a_emb=rows(2, 5).numpy().astype("float64"), syn_text_b_emb=rows(1, 6).numpy())),
        # By PyTorch.
        ("part/002.webp", picture("lossless_57x43.webp")), ("part/002.txt", b"a web picture"),
        ("part/002.paug.json", dump({"param_aug": augmentations(43, 57)})), ("part/002.syn.json", dump({"syn_text": ["four"]})),
        ("part/002.pth.gz", pth_gz({"image_emb": rows(3, 7).bfloat16(), "text_emb": rows(1, 8).bfloat16(),
                                    "syn_text_emb": rows(1, 9).bfloat16()})),
    ]
    with tarfile.open(os.path.join(OUT, "reinforced.tar"), "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    os.chmod(os.path.join(OUT, "reinforced.tar"), 0o644)


if __name__ == "__main__":
    main()
