"""Writes tests/fixtures/train/augment.json and augment.safetensors: stored augmentations applied by torchvision to Pillow's
pictures, to be compared byte for byte.

    python reference/make_augment_fixtures.py [OUT]

Pictures are those of tests/fixtures/images. Versions that wrote the stored files: torch 2.15, torchvision 0.29,
Pillow 13.0.
"""

import json
import os
import random
import sys

import torch
import torchvision.transforms as T
import torchvision.transforms.functional as F
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms.autoaugment import _apply_op
from torchvision.transforms.functional import pil_to_tensor

HERE = os.path.dirname(__file__)
IMAGES = os.path.join(HERE, "../tests/fixtures/images")
OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "../tests/fixtures/train")
OPS = ["Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness",
       "Posterize", "Solarize", "AutoContrast", "Equalize"]
NEAREST = T.InterpolationMode.NEAREST
MODES = {"bicubic": T.InterpolationMode.BICUBIC, "bilinear": T.InterpolationMode.BILINEAR}
CASES, TENSORS = [], {}


def rand_augment(image, ops):
    for op, magnitude in ops:
        image = _apply_op(image, OPS[op], magnitude, interpolation=NEAREST, fill=None)
    return image


def crop(image, settings, p):
    size = settings["size"]
    size = [size, size] if isinstance(size, int) else size
    return F.resized_crop(image, *p, size, MODES[settings.get("interpolation", "bilinear")])


def erase(image, p):
    tensor = pil_to_tensor(image)
    if p[0] != -1:
        tensor[:, p[0]:p[0] + p[2], p[1]:p[1] + p[3]] = 0
    return F.to_pil_image(tensor)


# The order of the steps, and what each stores; the centre crop stores nothing.
STEPS = {
    "resize": lambda i, s, p: T.Resize(s["size"], MODES[s.get("interpolation", "bilinear")])(i),
    "center_crop": lambda i, s, p: T.CenterCrop(s["size"])(i),
    "random_crop": lambda i, s, p: F.crop(i, *p, s["size"], s["size"]),
    "random_resized_crop": crop,
    "random_horizontal_flip": lambda i, s, p: F.hflip(i) if p else i,
    "rand_augment": lambda i, s, p: rand_augment(i, p),
    "random_erase": lambda i, s, p: erase(i, p),
}


def case(picture, settings, stored):
    image = Image.open(os.path.join(IMAGES, picture)).convert("RGB")
    left = list(stored)
    for name, step in STEPS.items():
        if name in settings:
            p = None if name == "center_crop" else left.pop(0)
            if p is not None or name == "center_crop":
                image = step(image, settings[name], p)
    assert not left
    TENSORS[str(len(CASES))] = pil_to_tensor(image).permute(1, 2, 0).contiguous()
    CASES.append({"picture": picture, "settings": settings, "stored": stored})


def usual(size):
    return {"normalize": {"mean": [0.5] * 3, "std": [0.5] * 3}, "rand_augment": {"enable": True, "p": 1.0},
            "random_resized_crop": {"interpolation": "bicubic", "size": size}, "to_rgb": {"enable": True},
            "to_tensor": {"enable": True}}


def main():
    dice = random.Random(3)
    magnitudes = {"ShearX": (0.3, -0.09), "ShearY": (0.21, -0.3), "TranslateX": (3.0, -11.63, 200.0), "TranslateY": (9.7, -1.0),
                  "Rotate": (9.0, -30.0, 90.0, 180.0, -90.0), "Brightness": (0.27, -0.9, 0.0), "Color": (0.9, -0.27, -1.0),
                  "Contrast": (0.27, -0.63), "Sharpness": (0.9, -0.45), "Posterize": (7.0, 4.0, 1.0), "Solarize": (178.5, 0.0, 255.0)}
    for op, name in enumerate(OPS):
        for k, magnitude in enumerate(magnitudes.get(name, (0.0,))):
            # One that is square, for quarters of a turn, and one that is not.
            size = [31, 26] if k % 2 else 29
            picture = ("large_640x431.png", "rgb_160x120.png")[op % 2]
            case(picture, usual(size), [[10, 20, 90, 110], [[op, magnitude]]])
    # Few values: little to stretch and to equalize.
    for op in (12, 13):
        case("six_3x2.png", usual(8), [[0, 0, 2, 3], [[op, 0.0]]])
        case("one_1x1.png", usual(4), [[0, 0, 1, 1], [[op, 0.0]]])
    space = T.RandAugment()._augmentation_space(31, (40, 40))
    for _ in range(60):
        picture, (w, h) = dice.choice((("large_640x431.png", (640, 431)), ("tall_75x200.png", (75, 200)),
                                       ("wide_300x41.png", (300, 41)), ("square_192.png", (192, 192))))
        ch, cw = dice.randint(9, h), dice.randint(9, w)
        ops = []
        for _ in range(2):
            op = dice.randrange(14)
            values, signed = space[OPS[op]]
            magnitude = float(values[dice.randrange(31)]) if values.ndim else 0.0
            ops.append([op, -magnitude if signed and dice.random() < 0.5 else magnitude])
        case(picture, usual(40), [[dice.randint(0, h - ch), dice.randint(0, w - cw), ch, cw], ops])
    full = {"uint8": {}, "resize": {"size": 50}, "center_crop": {"size": [41, 44]}, "random_crop": {"size": 36},
            "random_resized_crop": {"size": [20, 24], "interpolation": "bicubic"}, "random_horizontal_flip": {"p": 0.5},
            "rand_augment": {"num_ops": 2}, "to_tensor": {}, "random_erase": {"p": 0.25}}
    case("large_640x431.png", full, [50, [3, 7], [2, 1, 30, 31], True, [[4, -3.0], [1, 0.12]], [4, 5, 6, 30]])
    case("tall_75x200.png", full, [50, [0, 0], [2, 1, 30, 31], False, None, None])
    case("square_192.png", full, [50, None, [2, 1, 30, 31], True, [[13, 0.0], [11, 80.0]], [-1, -1, -1, -1]])
    case("wide_300x41.png", {"resize": {"size": [33, 60], "interpolation": "bicubic"}, "center_crop": {"size": 30}}, [[33, 60]])
    with open(os.path.join(OUT, "augment.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in CASES) + "\n]\n")
    save_file(TENSORS, os.path.join(OUT, "augment.safetensors"))
    os.chmod(os.path.join(OUT, "augment.safetensors"), 0o644)


if __name__ == "__main__":
    main()
