#!/usr/bin/env python3
"""Run the `ocelli` binary over a folder of FastVLM fixtures and compare with what transformers answered.

    python reference/make_fixtures.py --seed 7 --out fixtures-seed7
    python reference/check_fixtures.py --fixtures fixtures-seed7 --ocelli target/release/ocelli

Checks through the command line, as a user would: `caption` and `ask` (greedy ids, text, token counts) in
every case that one command can ask, and `trace` (every stage). Exit status 1 on any difference.
Needs: numpy, safetensors.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

STAGE_LIMIT = 2e-5  # relative to the largest value of the stage, f32
LOGIT_LIMIT = 5e-4  # absolute

DIRS = {"apple": "fastvlm-apple", "native": "fastvlm-native", "mlx-16": "fastvlm-mlx-fp16",
        "mlx-8": "fastvlm-mlx-8bit", "mlx-4": "fastvlm-mlx-4bit"}


def run(ocelli, *arguments):
    done = subprocess.run([ocelli, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, arguments))}\nexit {done.returncode}: {done.stderr}")
    return done.stdout


def model_arguments(fixtures, layout):
    arguments = ["--model", fixtures / DIRS[layout], "--dtype", "f32", "--orientation", "ignore"]
    if layout.startswith("mlx"):
        arguments += ["--vision", fixtures / "fastvlm-apple"]
    return arguments


def single_turn(prompt, native):
    """System text and question of a rendered prompt with one user turn, or None."""
    blocks = [b.split("\n", 1) for b in prompt.split("<|im_start|>")[1:]]
    texts = [(role, rest[0].removesuffix("<|im_end|>\n")) for role, *rest in blocks if rest]
    users = [text for role, text in texts if role == "user"]
    if len(users) != 1 or any(role == "assistant" and text for role, text in texts):
        return None
    question = users[0].replace("<image>\n", "").replace("<image>", "")
    if native:
        question = question.removeprefix("\n")
    system = dict(texts).get("system")
    return system, question


def check_answers(ocelli, fixtures, cases, failures):
    asked = 0
    first = {case["key"]: case for case in cases}
    for case in cases:
        layout = case["layout"] if case["layout"] in DIRS else case["key"].split("/")[0]
        # The quantized layouts repeat the first case's question.
        source = case if "prompt" in case else first["apple/one_image"]
        turn = single_turn(source["prompt"], layout == "native")
        if turn is None:
            continue
        system, question = turn
        images = [fixtures / "images" / name for name in source["images"]]
        arguments = [*model_arguments(fixtures, layout), "--json", "--max-tokens", "16", "--ignore-eos"]
        if source.get("preprocess") == "crop":
            arguments += ["--fit", "crop"]
        if system and system != "You are a helpful assistant.":
            arguments += ["--system", system]
        if len(images) > 1:
            arguments.append("--together")
        answer = json.loads(run(ocelli, "ask", *arguments, *images, question))
        asked += 1
        if answer["token_ids"] != case["greedy_ids"]:
            failures.append(f"{case['key']}: {answer['token_ids']} instead of {case['greedy_ids']}")
        if "seq_len" in case and answer["usage"]["prompt_tokens"] != case["seq_len"]:
            failures.append(f"{case['key']}: {answer['usage']['prompt_tokens']} prompt tokens")
    return asked


def stage_name(name):
    if name.startswith("vision."):
        return "vision/rgb_160x120.png/" + name.removeprefix("vision.")
    return "projected/rgb_160x120.png" if name == "projected" else f"apple/one_image/{name}"


def check_stages(ocelli, fixtures, case, expected, failures):
    _, question = single_turn(case["prompt"], False)
    image = fixtures / "images" / case["images"][0]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "stages.safetensors"
        run(ocelli, "trace", *model_arguments(fixtures, "apple"), image, "--prompt", question, "--out", out)
        stages = load_file(out)
    compared = 0
    for name, got in stages.items():
        want = expected.get(stage_name(name))
        if want is None:
            continue
        compared += 1
        if got.shape != want.shape:
            failures.append(f"{name}: {got.shape} instead of {want.shape}")
            continue
        error = np.abs(got - want).max() / np.abs(want).max()
        if not error <= STAGE_LIMIT or (name == "logits" and not np.abs(got - want).max() <= LOGIT_LIMIT):
            failures.append(f"{name}: relative error {error:.1e}")
    return compared


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixtures", type=Path, default=Path("tests/fixtures"))
    parser.add_argument("--ocelli", default="target/release/ocelli")
    a = parser.parse_args()
    expected = json.loads((a.fixtures / "fastvlm-expected.json").read_text())
    cases, failures = expected["cases"], []
    asked = check_answers(a.ocelli, a.fixtures, cases, failures)
    case = next(case for case in cases if case["key"] == "apple/one_image")
    tensors = load_file(a.fixtures / "fastvlm-expected.safetensors")
    compared = check_stages(a.ocelli, a.fixtures, case, tensors, failures)
    for failure in failures:
        print("DIFFERS", failure)
    print(f"{asked} of {len(cases)} cases asked, {compared} stages compared, {len(failures)} differences")
    sys.exit(1 if failures or not asked or compared < 20 else 0)


if __name__ == "__main__":
    main()
