#!/usr/bin/env python3
"""Compare `ocelli embed` with open_clip on MobileCLIP checkpoints of the real sizes.

    ocelli synth mobileclip2-s0 synth-s0
    python reference/compare_open_clip.py --model synth-s0 --ocelli target/release/ocelli --out result.json

Opens each folder with open_clip, which takes its weights strictly and must know a model of just that
configuration, embeds three photographs that scikit-image ships and some texts, and asks `ocelli embed` for the
same in f32, from the picture's file and the text on. Writes the cosine and the largest difference of each
embedding of length 1, and the largest cosine of two different inputs, to tell how much an equal embedding says.
The result of a variant replaces its earlier one in the file, so that the folders, up to 1.8 GB each, can be made
one after the other. Exit status 1 when an embedding differs by more than rounding.
Needs about 8 GB of memory and what `make_fixtures.py` needs, besides scikit-image (0.26).
"""
import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import skimage
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models.fastvit import checkpoint_filter_fn

import make_fixtures as fixtures

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee")
TEXTS = (
    "a photo of an astronaut",
    "a photo of a cat",
    "a cup of coffee on a wooden table",
    "Zwei Hunde &amp; ein café, \N{DOG FACE}!",
    "a very long caption that does not end, " * 12,
)
# What open_clip calls the variants.
NAMES = {
    "mobileclip-s1": "MobileCLIP-S1", "mobileclip-s2": "MobileCLIP-S2", "mobileclip-b": "MobileCLIP-B",
    "mobileclip-blt": "MobileCLIP-B", "mobileclip2-s0": "MobileCLIP2-S0", "mobileclip2-s2": "MobileCLIP2-S2",
    "mobileclip2-s3": "MobileCLIP2-S3", "mobileclip2-s4": "MobileCLIP2-S4", "mobileclip2-b": "MobileCLIP2-B",
    "mobileclip2-l14": "MobileCLIP2-L-14",
}
# Of an embedding of length 1; f32 on both sides, sums in another order.
LIMIT = 1e-4


def open_model(folder, name):
    """open_clip's model of that name with the folder's weights, and the folder's preprocessing."""
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    known = open_clip.get_model_config(name)
    if config != known:
        raise SystemExit(f"{folder}: open_clip's {name} is {known}, but the folder says {config}")
    # Strict: load_checkpoint refuses a missing or an unknown tensor.
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}", precision="fp32")
    return model.eval(), preprocess


class FirstS0(torch.nn.Module):
    """The first MobileCLIP-S0 with the interface of open_clip's models."""

    def __init__(self, folder):
        super().__init__()
        state = load_file(folder / "model.safetensors")
        self.visual = timm.create_model("fastvit_mci0", num_classes=512).eval()
        self.visual.load_state_dict(checkpoint_filter_fn(state, self.visual), strict=True)
        prefix = "text_encoder."
        self.text = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    def encode_image(self, pixels, normalize):
        return torch.nn.functional.normalize(self.visual(pixels), dim=-1)

    def encode_text(self, tokens, normalize):
        return torch.nn.functional.normalize(fixtures.mct_encode(self.text, tokens, heads=8), dim=-1)


def open_first_s0(folder):
    preprocess = open_clip.transform.PreprocessCfg(
        size=256, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear", resize_mode="shortest")
    return FirstS0(folder), open_clip.transform.image_transform_v2(preprocess, is_train=False)


@torch.inference_mode()
def embed_reference(folder, name, photographs):
    model, preprocess = open_model(folder, name) if name else open_first_s0(folder)
    tokens = open_clip.get_tokenizer(name or "MobileCLIP-S1")(list(TEXTS))
    started = time.perf_counter()
    pixels = torch.stack([preprocess(Image.open(path).convert("RGB")) for path in photographs])
    images = model.encode_image(pixels, normalize=True)
    texts = model.encode_text(tokens, normalize=True)
    seconds = time.perf_counter() - started
    return images.numpy(), texts.numpy(), {"reference_seconds": round(seconds, 2)}


def embed_ocelli(program, folder, photographs):
    arguments = [program, "embed", "--json", "--dtype", "f32", "--model", folder]
    for path in photographs:
        arguments += ["--image", path]
    for text in TEXTS:
        arguments += ["--text", text]
    started = time.perf_counter()
    done = subprocess.run([*map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{done.args}: exit {done.returncode}\n{done.stderr}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [[line["embedding"] for line in lines if line["kind"] == kind] for kind in ("image", "text")]
    return *map(np.array, kinds), {"ocelli_seconds_with_load": round(time.perf_counter() - started, 2)}


def compare(inputs, theirs, ours):
    if theirs.shape != ours.shape:
        raise SystemExit(f"open_clip's embeddings are {theirs.shape}, Ocelli's {ours.shape}")
    theirs, ours = theirs.astype(np.float64), ours.astype(np.float64)
    lengths = np.linalg.norm(theirs, axis=1) * np.linalg.norm(ours, axis=1)
    cosines = (theirs * ours).sum(axis=1) / lengths
    between = theirs @ theirs.T
    return {
        "inputs": [
            {"input": name[:60], "cosine": float(cosine), "max_abs_difference": float(difference)}
            for name, cosine, difference in zip(inputs, cosines, np.abs(theirs - ours).max(axis=1))
        ],
        "largest_cosine_of_two_inputs": float(between[~np.eye(len(between), dtype=bool)].max()),
    }


def compare_folder(program, folder, photographs):
    configs = [folder / "open_clip_config.json", folder / "config.json"]
    mark = json.loads(next(path for path in configs if path.exists()).read_text())["ocelli_synth"]
    name = NAMES.get(mark["arch"])
    if name is None and mark["arch"] != "mobileclip-s0":
        raise SystemExit(f"{folder}: nothing to compare {mark['arch']} with")
    their_images, their_texts, their_notes = embed_reference(folder, name, photographs)
    our_images, our_texts, our_notes = embed_ocelli(program, folder, photographs)
    images = compare(PHOTOGRAPHS, their_images, our_images)
    texts = compare(TEXTS, their_texts, our_texts)
    every = images["inputs"] + texts["inputs"]
    return mark | {
        "reference": f"open_clip {name}" if name else "timm fastvit_mci0, make_fixtures.mct_encode", "dtype": "f32", "embed_dim": our_images.shape[1],
        "smallest_cosine": min(r["cosine"] for r in every),
        "max_abs_difference": max(r["max_abs_difference"] for r in every),
        "images": images, "texts": texts,
        **their_notes, **our_notes,
        "versions": {m.__name__: m.__version__ for m in (torch, timm, open_clip, skimage, np)},
        "machine": platform.machine(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, action="append", help="a folder; may be repeated")
    parser.add_argument("--ocelli", default="target/release/ocelli")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    results = json.loads(a.out.read_text()) if a.out and a.out.exists() else {}
    well = True
    with tempfile.TemporaryDirectory() as scratch:
        photographs = [Path(scratch) / f"{name}.png" for name in PHOTOGRAPHS]
        for name, path in zip(PHOTOGRAPHS, photographs):
            Image.fromarray(getattr(skimage.data, name)()).convert("RGB").save(path)
        for folder in a.model:
            result = compare_folder(a.ocelli, folder, photographs)
            print(json.dumps({k: v for k, v in result.items() if not isinstance(v, dict)}), flush=True)
            results[result["arch"]] = result
            well &= result["max_abs_difference"] <= LIMIT
            if a.out:
                a.out.parent.mkdir(parents=True, exist_ok=True)
                a.out.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
