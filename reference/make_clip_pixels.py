"""Writes digests of the pixel values that open_clip's preprocessing makes of the fixture images.

Usage: python reference/make_clip_pixels.py tests/fixtures   (open_clip_torch, torchvision, Pillow 13)

`clip_pixels.json`: for each recipe and image the SHA-256 of the f32 values [3, size, size].
Pictures are made RGB first; 16-bit grey, which Pillow clips to white, is left out.
"""

import hashlib
import json
import os
import sys

from open_clip.transform import image_transform
from PIL import Image

out = sys.argv[1]
NONE = ([0.0] * 3, [1.0] * 3)
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
recipes = []
for size, interpolation, (mean, std) in [
    (256, "bilinear", NONE),  # S0, S1, S2
    (256, "bilinear", CLIP),  # S3, S4
    (224, "bilinear", NONE),  # B
    (224, "bicubic", CLIP),  # L-14
]:
    for resize_mode in ["shortest", "squash"]:
        transform = image_transform(
            size, is_train=False, mean=mean, std=std, interpolation=interpolation, resize_mode=resize_mode
        )
        digests = {}
        for name in sorted(os.listdir(f"{out}/images")):
            image = Image.open(f"{out}/images/{name}")
            if not image.mode.startswith("I;16"):
                values = transform(image.convert("RGB")).numpy()
                digests[name] = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
        recipes.append(
            {"size": size, "interpolation": interpolation, "resize_mode": resize_mode,
             "mean": mean, "std": std, "sha256": digests}
        )
with open(f"{out}/clip_pixels.json", "w") as f:
    json.dump(recipes, f, indent=1)
    f.write("\n")
