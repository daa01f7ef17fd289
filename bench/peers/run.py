#!/usr/bin/env python3
"""Ocelli beside what else would run the same models on this machine: in turn, in the same minutes, the same threads.

    cargo build --release -p ocelli-cli
    python3 bench/peers/run.py --ocelli target/release/ocelli

Installs the peers into an environment of its own, makes random checkpoints at the real sizes, and lets every engine
load the same one. Then the engines take turns, some runs each, round after round. Writes each turn as a JSON object a
line, and one table with ratios. What cannot be installed or run is told with its reason. README.md says more.
"""
import argparse
import contextlib
import datetime
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import install
import plan
import report

HERE = Path(__file__).resolve().parent
SECTIONS = ("encode", "llm", "ttft", "clip")
# A turn ends after this long, even when it had fewer runs.
TURN_S = 8
REALTIME = ["chrt", "-f", "10"]


class Failed(Exception):
    """An engine could not do it; the text says why."""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ocelli", type=Path, default=Path("target/release/ocelli"))
    parser.add_argument("--out", type=Path, default=Path("peers.jsonl"), help="results; the table goes beside them, as .md")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, of: %(default)s")
    parser.add_argument("--clips", default=",".join(plan.CLIPS), help="variants of MobileCLIP2, of: %(default)s")
    parser.add_argument("--sides", default=",".join(map(str, plan.SIDES)), help="pixels of FastVLM's pictures (%(default)s)")
    parser.add_argument("--peers", help="only engines whose name has one of these words, as torch,llama")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3, help="runs of a turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--realtime", choices=("auto", "on", "off"), default="auto",
                        help="run all engines at real-time priority (chrt -f 10)")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ocelli-peers"
    parser.add_argument("--work", type=Path, default=cache, help="checkpoints, also converted ones: 15 GB (%(default)s)")
    parser.add_argument("--venv", type=Path, help="where the peers are installed (WORK/venv)")
    parser.add_argument("--table", type=Path, metavar="JSONL", help="measure nothing: print the table of these results")
    a = parser.parse_args()
    a.only, a.clips = set(a.only.split(",")), a.clips.split(",")
    a.sides = [int(side) for side in a.sides.split(",")]
    if wrong := (a.only - set(SECTIONS)) | (set(a.clips) - set(plan.CLIPS)) | (set(a.sides) - set(plan.SIDES)):
        parser.error(f"unknown: {', '.join(sorted(map(str, wrong)))}")
    a.work, a.ocelli = a.work.resolve(), a.ocelli.resolve()
    a.venv = a.venv or a.work / "venv"
    a.device = "cpu"
    return a


def main():
    a = arguments()
    if a.table:
        machine, *records = map(json.loads, a.table.read_text().splitlines())
        return print(report.markdown(machine, records, shown_rows(records), plan.MEMORY_LIMITS))
    if not a.ocelli.exists():
        sys.exit(f"peers: there is no {a.ocelli}: cargo build --release -p ocelli-cli, or --ocelli FILE")
    a.prefix = REALTIME if realtime(a.realtime) else []
    missing = install.install(a.venv, a.work / "npm")
    session = Session(a, missing)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        session.run()
    except KeyboardInterrupt:
        say("stopped; the table has what was measured until then")
    table = report.markdown(session.machine, session.records, shown_rows(session.records), plan.MEMORY_LIMITS)
    a.out.with_suffix(".md").write_text(table)
    print(table)


def shown_rows(records):
    """Lines of units that were tried."""
    tried = {record["unit"] for record in records}
    return [row for row in plan.rows() if row.unit in tried]


def realtime(asked):
    allowed = shutil.which("chrt") and subprocess.run([*REALTIME, "true"], capture_output=True).returncode == 0
    if asked == "on" and not allowed:
        sys.exit("peers: --realtime on: this system does not permit `chrt -f 10`")
    return asked != "off" and bool(allowed)


def say(text):
    print(f"peers: {text}", file=sys.stderr, flush=True)


class Session:
    """One comparison: its settings, and its records, which are written as they come."""

    def __init__(self, a, missing):
        self.a, self.missing, self.records = a, missing, []
        self.machine = describe(a)
        self.out = a.out.open("w")
        self.write(self.machine)

    def write(self, record):
        self.out.write(json.dumps(record) + "\n")
        self.out.flush()

    def record(self, group, unit, engine, round_=None, **fields):
        record = {"section": group.section, "unit": unit.name, "engine": engine, "model": group.model, "round": round_,
                  "time": round(time.time()), "load1": round(os.getloadavg()[0], 2), **fields}
        record = {key: value for key, value in record.items() if value is not None}
        self.records.append(record)
        self.write(record)
        if "error" in record:
            say(f"{engine}, {unit.name}: {record['error']}")

    def run(self):
        if "encode" in self.a.only:
            self.each(plan.encode(self.a.sides))
        if "llm" in self.a.only:
            self.each(plan.llm(self.positions("--resolution", "512", "--prompt", plan.prompt(0))["tokens"]))
        if "ttft" in self.a.only:
            probe = self.positions()
            self.each(plan.ttft(probe["tokens"], probe["image_tokens"]))
            self.memory()
        if "clip" in self.a.only:
            self.each(plan.clip(self.a.clips, self.pixels))

    # What Ocelli does.

    def checkpoint(self, name):
        """The folder of a random checkpoint at its real size."""
        folder = self.a.work / "models" / name
        if not folder.exists():
            say(f"ocelli synth {name}")
            folder.parent.mkdir(parents=True, exist_ok=True)
            self.ocelli(["synth", name, str(folder)])
        return folder

    def folder_of(self, ours, model):
        """The checkpoint that this setting of ours opens."""
        folder = self.checkpoint(model)
        if not ours.quantize:
            return folder
        quantized = self.a.work / "models" / f"{model}{''.join(ours.quantize)}"
        if not quantized.exists():
            # Random weights fail the gate; only their size and speed count here.
            self.ocelli(["quantize", str(folder), str(quantized), *ours.quantize, "--force"])
        return quantized

    def ocelli(self, command, env=None, prefix=()):
        env = {**os.environ, "OCELLI_HOME": str(self.a.work / "ocelli"), **(env or {})}
        done = subprocess.run([*prefix, str(self.a.ocelli), *command], env=env, capture_output=True, text=True)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise Failed(next((line for line in lines if line.startswith("error")), (lines or ["no message"])[-1]))
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def bench(self, ours, model, command, *options):
        """Records of `ocelli bench`."""
        command = [*command, "--json", "--model", str(self.folder_of(ours, model)), "--threads", str(self.a.threads)]
        return self.ocelli([*command, *ours.options, *options], ours.env, self.a.prefix)

    def positions(self, *options):
        """How long Ocelli's prompt is."""
        found = self.bench(plan.BF16, "fastvlm-0.5b", ("bench", "ttft", "--max-tokens", "1", "--runs", "1", "--warmup", "0"),
                           *options)
        return next(record for record in found if record["measure"] == "ttft")

    def pixels(self, variant):
        config = json.loads((self.checkpoint(f"mobileclip2-{variant}") / "open_clip_config.json").read_text())
        size = config["model_cfg"]["vision_cfg"].get("image_size", 256)
        return size if isinstance(size, int) else size[0]

    def limit(self, group, unit, ours):
        """What the machine allows at least, in ms, by its measured limits."""
        if not unit.limit:
            return
        found = self.bench(ours, group.model, ("bench", "ops", "--runs", "1", "--warmup", "0"), *unit.limit_options)
        limits = {r["measure"]: r["limit_ms"] for r in found if r.get("op") == "total"}
        self.record(group, unit, ours.engine, limit_ms=sum(limits[part] for part in unit.limit))

    def memory(self):
        """Peak memory of a process that answers once."""
        unit = plan.Unit("memory", (), "peak", {}, (), ())
        group = plan.Group("memory", "", "fastvlm-0.5b", ())
        for ours in (plan.BF16, plan.Q8, plan.Q4, plan.INT8_Q4):
            with self.told(group, unit, ours.engine):
                found = self.bench(ours, group.model, ("bench", "memory", "--resolution", "1024"))[0]
                self.record(group, unit, ours.engine, peak_rss_bytes=found["peak_rss_bytes"],
                            load_peak_rss_bytes=found["load_peak_rss_bytes"], commit=found.get("commit"))

    @contextlib.contextmanager
    def told(self, group, unit, engine):
        try:
            yield
        except Failed as error:
            self.record(group, unit, engine, error=str(error))

    # Taking turns.

    def each(self, groups):
        for group in groups:
            say(f"{group.section}: {group.model}")
            peers = {peer.engine: peer for unit in group.units for peer in unit.peers if self.wanted(peer)}
            workers = {}
            try:
                for engine, peer in peers.items():
                    self.start(group, peer, workers)
                self.turns(group, workers)
            finally:
                for worker in workers.values():
                    worker.close()

    def wanted(self, peer):
        words = self.a.peers.lower().split(",") if self.a.peers else [""]
        return any(word in peer.engine.lower() for word in words)

    def start(self, group, peer, workers):
        reason = self.missing.get("torch") or self.missing.get(peer.module)
        if not reason:
            try:
                workers[peer.engine] = Worker(self.a, peer, group, self.checkpoint(group.model))
            except Failed as error:
                reason = str(error)
        if reason:
            for unit in group.units:
                if peer in unit.peers:
                    self.record(group, unit, peer.engine, error=reason)

    def turns(self, group, workers):
        """Every engine once to get ready, which is not timed, then the rounds."""
        ready = {}
        for unit in group.units:
            ready[unit.name] = [], []
            for ours in unit.ours:
                with self.told(group, unit, ours.engine):
                    self.limit(group, unit, ours)
                    self.our_turn(group, unit, ours, None)
                    ready[unit.name][0].append(ours)
            for peer in unit.peers:
                with self.told(group, unit, peer.engine):
                    if peer.engine in workers:
                        workers[peer.engine].ask(unit.ask, warmup=1, runs=0)
                        ready[unit.name][1].append(peer)
        for round_ in range(self.a.rounds):
            for unit in group.units:
                ours, peers = ready[unit.name]
                for engine in plan.turns(ours, peers, round_):
                    self.turn(group, unit, engine, workers, round_, ready)
            say(f"{group.section}: {group.model}, round {round_ + 1} of {self.a.rounds}")

    def turn(self, group, unit, engine, workers, round_, ready):
        try:
            if isinstance(engine, plan.Ours):
                self.our_turn(group, unit, engine, round_)
            else:
                answer = workers[engine.engine].ask(unit.ask, warmup=1, runs=self.a.runs, seconds=TURN_S)
                self.record(group, unit, engine.engine, round_, **answer)
        except Failed as error:
            self.record(group, unit, engine.engine, round_, error=str(error))
            for side in ready[unit.name]:
                if engine in side:
                    side.remove(engine)

    def our_turn(self, group, unit, ours, round_):
        """A process of its own, which maps the weights that an earlier one packed."""
        runs = 1 if round_ is None else self.a.runs
        options = ("--times", "--runs", str(runs), "--warmup", "1")
        found = next(r for r in self.bench(ours, group.model, unit.command, *options) if r["measure"] == unit.measure)
        if round_ is None:
            return
        if found.get("tokens") not in (None, unit.ask.get("tokens")) and "tokens" in unit.ask and unit.measure == "prefill":
            raise Failed(f"{found['tokens']} positions, not {unit.ask['tokens']}")
        kept = {key: found.get(key) for key in
                ("times_ms", "tokens", "context", "kernels", "busy_others", "peak_rss_bytes", "commit")}
        self.record(group, unit, ours.engine, round_, **kept)


class Worker:
    """A peer in its own process, which stands still (SIGSTOP) while it is not its turn."""

    def __init__(self, a, peer, group, folder):
        # Converted checkpoints belong to one checkpoint.
        mark = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
        spec = {"peer": peer.module, "work": group.work, "dtype": peer.dtype, "threads": a.threads, "folder": str(folder),
                "device": a.device,
                "cache": str(a.work / "converted" / f"{group.model}-{mark}"), "npm": str(a.work / "npm")}
        cores = sorted(os.sched_getaffinity(0))[:a.threads]
        env = {**os.environ, "OMP_NUM_THREADS": str(a.threads), "GOMP_CPU_AFFINITY": " ".join(map(str, cores)),
               "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **peer.env}
        if a.device == "cpu":
            env["CUDA_VISIBLE_DEVICES"] = ""
        self.log = a.work / "log" / f"{group.model}-{group.work}-{peer.engine.replace(' ', '-')}.txt"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [*a.prefix, str(a.venv / "bin/python"), str(HERE / "worker.py"), json.dumps(spec)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=log)
        say(f"loading {peer.engine}")
        self.answer()

    def ask(self, unit, warmup, runs, seconds=None):
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps({"unit": unit, "warmup": warmup, "runs": runs, "seconds": seconds}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"it ended with status {self.process.wait()}; see {self.log}")
        self.process.send_signal(signal.SIGSTOP)
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def close(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()


def describe(a):
    """The machine, and what runs on it."""
    cpu = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        cpu.setdefault(name.strip(), value.strip())
    wanted = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
              "asimd", "asimddp", "bf16", "i8mm")
    features = (cpu.get("flags") or cpu.get("Features") or "").split()
    ocelli = subprocess.run([str(a.ocelli), "--version"], capture_output=True, text=True).stdout.strip()
    return {
        "record": "machine", "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu.get("model name", platform.machine()), "features": [f for f in wanted if f in features],
        "cores": len(os.sched_getaffinity(0)), "threads": a.threads, "realtime": bool(a.prefix),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()), "python": platform.python_version(), "load1": round(os.getloadavg()[0], 2),
        "rounds": a.rounds, "runs": a.runs, "flush_to_zero": True, "malloc": plan.MALLOC["GLIBC_TUNABLES"],
        "versions": {"ocelli": ocelli.removeprefix("ocelli ")} | install.versions(a.venv),
    }


if __name__ == "__main__":
    main()
