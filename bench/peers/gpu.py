#!/usr/bin/env python3
"""Ocelli on a GPU beside torch with transformers on the same GPU: in turn, in the same minutes, the same checkpoint.

    cargo build --release -p ocelli-cli
    python3 bench/peers/gpu.py --ocelli target/release/ocelli

Measures FastVLM-0.5B with random weights: encoder, prefill, a token, time to the first token. Installs torch into an
environment of its own (the build for your GPU is what pip's index offers: see README.md). Writes each turn as a JSON
object a line, the first of which says what GPU and driver offer, and a table beside them. What fails is told.
`--device cpu` takes the CPU on both sides: for trying this script where there is no GPU.
"""
import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import install
import plan
import report
import run
from report import Row

SECTIONS = ("encode", "llm", "ttft")
SIDES = (1024, 512, 256)
PEERS = (plan.TORCH, plan.Peer("torch f16", "torch", "f16", plan.MALLOC))
# Asked in the environment of torch.
TORCH_GPU = """
import json, sys, torch
kind = sys.argv[1].partition(":")[0]
found = {"device": sys.argv[1], "torch": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip}
if kind in ("cuda", "xpu"):
    p = getattr(torch, kind).get_device_properties(torch.device(sys.argv[1]))
    found |= {"name": p.name, "memory_bytes": p.total_memory}
    found |= {key: getattr(p, key) for key in ("major", "minor", "multi_processor_count") if hasattr(p, key)}
torch.ones(1, device=sys.argv[1]).sum().item()
print(json.dumps(found))
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ocelli", type=Path, default=Path("target/release/ocelli"))
    parser.add_argument("--device", default="cuda", help="torch's: cuda, cuda:1, xpu, mps, cpu (%(default)s); "
                        "Ocelli's is the GPU that OCELLI_GPU names, or the CPU beside torch's")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"), help="results; the table goes beside them, as .md")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, of: %(default)s")
    parser.add_argument("--sides", default=",".join(map(str, SIDES)), help="pixels of the encoder's pictures (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=5, help="runs of a turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the host's work")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ocelli-peers"
    parser.add_argument("--work", type=Path, default=cache, help="checkpoints, also converted ones: 6 GB (%(default)s)")
    parser.add_argument("--venv", type=Path, help="where torch is installed (WORK/venv-gpu)")
    a = parser.parse_args()
    a.only = a.only.split(",")
    a.sides = [int(side) for side in a.sides.split(",")]
    if wrong := set(a.only) - set(SECTIONS):
        parser.error(f"unknown: {', '.join(sorted(wrong))}")
    a.work, a.ocelli, a.peers, a.prefix = a.work.resolve(), a.ocelli.resolve(), None, []
    a.venv = a.venv or a.work / "venv-gpu"
    return a


def main():
    a = arguments()
    if not a.ocelli.exists():
        sys.exit(f"peers: there is no {a.ocelli}: cargo build --release -p ocelli-cli, or --ocelli FILE")
    session = Session(a, install.install(a.venv, a.work / "npm", ("torch",)))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        session.run()
    except KeyboardInterrupt:
        run.say("stopped; the table has what was measured until then")
    except run.Failed as error:
        sys.exit(f"peers: {error}")
    tried = {record["unit"] for record in session.records}
    rows = [row for row in lines(a) if row.unit in tried]
    table = offered(session.machine) + report.markdown(session.machine, session.records, rows, {})
    a.out.with_suffix(".md").write_text(table)
    print(table)


def lines(a):
    """The table; nothing is promised."""
    rows = [Row(f"FastViTHD encode, {side} px", f"encode {side}", None) for side in a.sides]
    return rows + [Row(f"Qwen2-0.5B prefill, {plan.TOKENS} tokens", "prefill", None),
                   Row("Qwen2-0.5B decode a token", "decode", None),
                   Row("FastVLM-0.5B first token, 1024 px", "ttft 1024", None)]


def offered(machine):
    """What there was to run on."""
    gpus = [f"- Ocelli could take {gpu}" for gpu in map(json.dumps, machine["gpus"])] or ["- Ocelli finds no GPU"]
    return "\n".join(["# On a GPU", "", f"- torch runs on {json.dumps(machine['torch_device'])}", *gpus, "", ""])


class Session(run.Session):
    """A comparison of Ocelli and torch on one device."""

    def __init__(self, a, missing):
        super().__init__(a, missing)
        self.side = () if a.device == "cpu" else ("--device", "gpu")

    def write(self, record):
        if record.get("record") == "machine":
            record["versions"].pop("llama.cpp", None)
            record |= {"gpus": self.ocelli(["doctor", "--json"])[0]["gpus"], "torch_device": self.torch_device()}
        super().write(record)

    def torch_device(self):
        if reason := self.missing.get("torch"):
            return {"error": reason}
        command = [str(self.a.venv / "bin/python"), "-c", TORCH_GPU, self.a.device]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            sys.exit(f"peers: torch cannot use {self.a.device}: {reason}")
        return json.loads(done.stdout)

    def bench(self, ours, model, command, *options):
        return super().bench(ours, model, command, *self.side, *options)

    def limit(self, group, unit, ours):
        """`bench ops` knows the CPU's limits only."""

    def run(self):
        if "encode" in self.a.only:
            self.each(of_device(plan.encode(self.a.sides)))
        if "llm" in self.a.only:
            base = self.positions("--resolution", "512", "--prompt", plan.prompt(0))["tokens"]
            self.each(of_device(plan.llm(base)))
        if "ttft" in self.a.only:
            probe = self.positions()
            self.each(of_device(plan.ttft(probe["tokens"], probe["image_tokens"])))


def of_device(groups):
    """The same work with those who can do it on a GPU; instruction sets make no difference there."""
    def unit(of):
        return dataclasses.replace(of, ours=tuple(ours for ours in of.ours if not ours.env), peers=PEERS, limit=())
    return [dataclasses.replace(group, units=tuple(map(unit, group.units))) for group in groups]


if __name__ == "__main__":
    main()
