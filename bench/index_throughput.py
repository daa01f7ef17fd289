#!/usr/bin/env python3
"""Pictures per second of `ocelli index`, and of open_clip with Pillow, in turns on the same photographs.

    python bench/index_throughput.py --ocelli target/release/ocelli --model synth-s0 --name MobileCLIP2-S0 \
        --photos DIR [--count 120] [--side 4000x3000] [--rounds 3]

--model is a folder of `ocelli synth` (open_clip reads the same file), --photos a folder that is filled with
photographs when it is empty: crops of scikit-image's, enlarged, with noise, so that JPEG files have a usual size.
open_clip runs as its users run it fastest on a CPU: a DataLoader whose workers decode, batches, a reparameterized
tower, f32 and bf16. Loading the model is not counted on either side. Writes one JSON object to stdout.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy
import torch
from PIL import Image


def make_photos(folder, count, size):
    import skimage.data

    sources = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    random = numpy.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        source = Image.fromarray(sources[i % len(sources)])
        left, top = (int(random.integers(0, side // 3)) for side in source.size)
        crop = source.crop((left, top, left + source.width * 2 // 3, top + source.height * 2 // 3))
        pixels = numpy.asarray(crop.resize(size, Image.BICUBIC), dtype=numpy.int16)
        noisy = pixels + random.normal(0, 5, pixels.shape).astype(numpy.int16)
        Image.fromarray(noisy.clip(0, 255).astype(numpy.uint8)).save(folder / f"{i:04}.jpg", quality=88)


class Photos(torch.utils.data.Dataset):
    def __init__(self, paths, preprocess):
        self.paths, self.preprocess = paths, preprocess

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return self.preprocess(Image.open(self.paths[i]).convert("RGB"))


def peer(name, model_dir, dtype):
    """Returns a function that embeds all paths."""
    import open_clip
    from timm.utils import reparameterize_model

    model, _, preprocess = open_clip.create_model_and_transforms(
        name, pretrained=str(model_dir / "open_clip_model.safetensors"), image_mean=(0, 0, 0), image_std=(1, 1, 1))
    model.eval()
    model.visual.trunk = reparameterize_model(model.visual.trunk)
    model = model.to(dtype)
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)

    def run(paths):
        loader = torch.utils.data.DataLoader(Photos(paths, preprocess), batch_size=16, num_workers=cores)
        with torch.inference_mode():
            return sum(len(model.encode_image(batch.to(dtype), normalize=True)) for batch in loader)

    return run


def ours(binary, model_dir, photos, dtype):
    with tempfile.TemporaryDirectory() as home:
        command = [binary, "index", photos, "--model", model_dir, "--dtype", dtype, "--json"]
        environment = {**os.environ, "OCELLI_HOME": home}
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return json.loads(output.stdout)["files_per_s"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ocelli", required=True)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--photos", required=True, type=pathlib.Path)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--side", default="4000x3000")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if not args.photos.is_dir() or not any(args.photos.iterdir()):
        make_photos(args.photos, args.count, tuple(int(side) for side in args.side.split("x")))
    paths = sorted(args.photos.glob("*.jpg"))
    size = Image.open(paths[0]).size
    peers = {"f32": peer(args.name, args.model, torch.float32), "bf16": peer(args.name, args.model, torch.bfloat16)}
    found = {f"{who} {dtype}": [] for who in ("ocelli", "open_clip") for dtype in peers}
    for _ in range(args.rounds):
        for dtype, run in peers.items():
            found[f"ocelli {dtype}"].append(ours(args.ocelli, args.model, args.photos, dtype))
            start = time.perf_counter()
            assert run(paths) == len(paths)
            found[f"open_clip {dtype}"].append(len(paths) / (time.perf_counter() - start))
    median = {name: statistics.median(rates) for name, rates in found.items()}
    print(json.dumps({
        "bench": "index_throughput", "model": args.name, "photos": len(paths), "size": size,
        "mean_file_bytes": sum(path.stat().st_size for path in paths) // len(paths),
        "cores": len(os.sched_getaffinity(0)), "load1": os.getloadavg()[0], "torch": torch.__version__,
        "files_per_s": found, "median_files_per_s": median,
        "ratio_f32": median["ocelli f32"] / median["open_clip f32"],
        "ratio_bf16": median["ocelli bf16"] / median["open_clip bf16"],
        "ratio_best": max(v for k, v in median.items() if k.startswith("ocelli"))
        / max(v for k, v in median.items() if k.startswith("open_clip")),
    }))


if __name__ == "__main__":
    main()
