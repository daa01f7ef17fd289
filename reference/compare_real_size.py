#!/usr/bin/env python3
"""Compare `ocelli` with transformers on a checkpoint of the real size, token for token.

    ocelli synth fastvlm-0.5b synth-0.5b
    python reference/compare_real_size.py --model synth-0.5b --ocelli target/release/ocelli --out result.json

Opens the folder (Apple's layout) with transformers, renaming its keys, asks both programs the same question
about three photographs that scikit-image ships, and compares the ids of 32 greedy tokens, the features of the
picture and the logits of the first token, all in f32. Exit status 1 when an id differs.
With random weights attention is an even mean of the prompt, and one token repeats for ever; so both programs open
a copy whose queries and keys are doubled, which is exact in bf16 and makes the answers varied.
Needs about 8 GB of memory and what `make_fixtures.py` needs, besides scikit-image (0.25).
"""
import argparse
import json
import shutil
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import skimage
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import FastVlmConfig, FastVlmForConditionalGeneration

import make_fixtures as fixtures

QUESTION = "Describe the image."
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee")
TOKENS = 32


def open_model(folder):
    """The transformers model with the folder's weights, and how many tensors it took."""
    apple = json.loads((folder / "config.json").read_text())
    tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(shard))
    text = {key: apple[key] for key in (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "vocab_size", "max_position_embeddings", "rms_norm_eps", "bos_token_id", "eos_token_id")}
    text |= {"model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": apple["rope_theta"]}}
    config = FastVlmConfig(
        vision_config=dict(model_type="timm_wrapper", architecture="fastvit_mci3", do_pooling=True,
                           global_pool="avg", hidden_size=3072, initializer_range=0.02,
                           model_args=dict(inference_mode=True)),
        text_config=text, image_token_index=apple["vocab_size"] - 1, image_seq_length=256,
        tie_word_embeddings=False)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = FastVlmForConditionalGeneration(config)
    model = model.to_empty(device="cpu").float().eval()
    trunk = model.model.vision_tower.timm_model
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    prefix, tower = "model.vision_tower.timm_model.", "model.vision_tower.vision_tower.model."
    state, used = {}, set()
    for name in model.state_dict():
        if name.startswith(prefix):
            source = tower + fixtures.timm_to_apple_fastvit(name.removeprefix(prefix), trunk)
        elif name.startswith("model.multi_modal_projector."):
            source = name.replace("multi_modal_projector.linear_1", "mm_projector.0")
            source = source.replace("multi_modal_projector.linear_2", "mm_projector.2")
        else:
            source = name.replace("model.language_model.", "model.")
        if source not in tensors and name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=torch.long)
            continue
        state[name] = tensors[source].float()
        used.add(source)
    unused = set(tensors) - used - {tower + "head.proj"}
    unused = {name for name in unused if not name.endswith("num_batches_tracked")}
    if unused:
        raise SystemExit(f"tensors that transformers has no place for: {sorted(unused)[:5]}")
    model.load_state_dict(state, strict=True, assign=True)
    rotary = model.model.language_model.rotary_emb
    rotary.__init__(model.config.text_config)  # Buffers that are not in the file.
    return model, len(used)


def sharpened(folder, copy):
    """A copy of the checkpoint with queries and keys doubled."""
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, copy)
            continue
        tensors = load_file(path)
        for name in tensors:
            if ".q_proj." in name or ".k_proj." in name:
                tensors[name] = tensors[name] * 2
        save_file(tensors, copy / path.name, metadata={"format": "pt"})


def ask_transformers(model, tokenizer, path):
    image = fixtures.square_pad(Image.open(path).convert("RGB")).resize((1024, 1024), Image.BICUBIC)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    started = time.perf_counter()
    vision = model.model.vision_tower.timm_model.forward_features(pixels)
    features = model.model.multi_modal_projector(vision.flatten(2).transpose(1, 2))
    prompt = fixtures.apple_prompt([("user", "<image>\n" + QUESTION), ("assistant", None)])
    embeds = fixtures.splice(model, fixtures.apple_ids(tokenizer, prompt), features)
    answer = fixtures.lm_run(model, embeds, TOKENS)
    return {"ids": answer["greedy"], "margins": answer["margins"], "features": features[0].numpy(),
            "logits": answer["logits"][-1].numpy(), "prompt_tokens": embeds.shape[1],
            "seconds": time.perf_counter() - started}


def run(*arguments):
    done = subprocess.run([*map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{done.args}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


def ask_ocelli(program, folder, path, scratch):
    model = ["--model", folder, "--dtype", "f32"]
    answer = json.loads(run(program, "ask", *model, "--json", "--ignore-eos", "--max-tokens", TOKENS, path, QUESTION))
    out = scratch / "stages.safetensors"
    run(program, "trace", *model, path, "--prompt", QUESTION, "--out", out)
    stages = load_file(out)
    answer["features"], answer["logits"] = stages["projected"].numpy(), stages["logits"][-1].numpy()
    return answer


def relative_error(got, want):
    return float(np.abs(got - want).max() / np.abs(want).max())


def compare(name, theirs, ours):
    same = next((i for i, (a, b) in enumerate(zip(theirs["ids"], ours["token_ids"])) if a != b), TOKENS)
    return {
        "photograph": name,
        "equal_tokens": same,
        "transformers_ids": theirs["ids"],
        "ocelli_ids": ours["token_ids"],
        "distinct_ids": len(set(theirs["ids"])),
        "smallest_margin": min(theirs["margins"]),
        "prompt_tokens": [theirs["prompt_tokens"], ours["usage"]["prompt_tokens"]],
        "image_embeds_relative_error": relative_error(ours["features"], theirs["features"]),
        "first_logits_relative_error": relative_error(ours["logits"], theirs["logits"]),
        "transformers_seconds": round(theirs["seconds"], 2),
        "ocelli_seconds": round(ours["timings"]["total_ms"] / 1e3, 2),
        "ocelli_kernels": ours["kernels"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--ocelli", default="target/release/ocelli")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    torch.set_num_threads(torch.get_num_threads() if torch.get_num_threads() > 1 else 2)
    torch.set_flush_denormal(True)
    records = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        copy = scratch / "sharpened"
        copy.mkdir()
        sharpened(a.model, copy)
        model, tensors = open_model(copy)
        tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
        for name in PHOTOGRAPHS:
            path = scratch / f"{name}.png"
            Image.fromarray(getattr(skimage.data, name)()).convert("RGB").save(path)
            theirs = ask_transformers(model, tokenizer, path)
            records.append(compare(name, theirs, ask_ocelli(a.ocelli, copy, path, scratch)))
            print(json.dumps({k: v for k, v in records[-1].items() if not k.endswith("_ids")}), flush=True)
    result = {
        "config": json.loads((a.model / "config.json").read_text()).get("ocelli_synth"),
        "question": QUESTION, "dtype": "f32", "tensors": tensors, "photographs": records,
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, skimage, np)},
        "machine": platform.machine(),
    }
    if a.out:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if all(r["equal_tokens"] == TOKENS for r in records) else 1)


if __name__ == "__main__":
    main()
