#!/usr/bin/env python3
"""Ocelli beside onnxruntime-web in a headless Chromium: WebAssembly, one thread each, in turn, in the same minutes.

    cargo run --bin xtask -- web && cargo run --bin xtask -- web --relaxed
    python3 bench/peers/web/run.py --ocelli target/release/ocelli

Installs the peer, makes random checkpoints at the real sizes and converts them, then lets the engines take turns. Writes
each turn as a JSON object a line, and one table. README.md says more.
"""
import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(HERE.parent))

import install
import plan
import report
import units
import worker

NPM = ["onnxruntime-web@1.30.0", "playwright-core@1.65.1"]
CHROMIUM = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
PAGE = ["page.html", "page.js", "worker.js", "ocelli.js", "onnxruntime.js"]
BUILDS = ["pkg", "pkg-relaxed"]
# A turn begins no run after this long.
TURN_S = 4
SYNTH = {"clip": "mobileclip2-s0", "q4": "fastvlm-0.5b", "q8": "fastvlm-0.5b"}
CONVERTED = {
    "cut": ("fastvlm-0.5b", {"what": "cut", "layers": units.LAYERS}),
    "clip-onnx": ("mobileclip2-s0", {"what": "clip", "side": units.SIDE}),
    "encoder-onnx": ("fastvlm-0.5b", {"what": "encoder", "side": units.SIDE}),
    "decoder-f32-onnx": ("cut", {"what": "decoder", "weights": "f32", "question": units.QUESTION}),
    "decoder-int8-onnx": ("fastvlm-0.5b", {"what": "decoder", "weights": "int8", "question": units.QUESTION}),
    "decoder-q4-onnx": ("fastvlm-0.5b", {"what": "decoder", "weights": "q4", "question": units.QUESTION}),
}


class Failed(Exception):
    """An engine could not do it; the text says why."""


def arguments():
    sections = list(units.units())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ocelli", type=Path, default=ROOT / "target/release/ocelli", help="makes and exports checkpoints")
    parser.add_argument("--web", type=Path, default=ROOT / "web", help="where pkg/ and pkg-relaxed/ are (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("web-peers.jsonl"), help="results; the table goes beside them, as .md")
    parser.add_argument("--only", default=",".join(sections), help="sections, of: %(default)s")
    parser.add_argument("--rounds", type=int, default=4, help="0 installs and converts, and measures nothing")
    parser.add_argument("--runs", type=int, default=2, help="runs of a turn")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ocelli-peers"
    parser.add_argument("--work", type=Path, default=cache, help="checkpoints, also converted ones: 9 GB (%(default)s)")
    parser.add_argument("--venv", type=Path, help="where the converters are installed (WORK/venv)")
    parser.add_argument("--table", type=Path, metavar="JSONL", help="measure nothing: print the table of these results")
    a = parser.parse_args()
    a.only = a.only.split(",")
    if wrong := set(a.only) - set(sections):
        parser.error(f"unknown: {', '.join(sorted(wrong))}")
    a.work, a.ocelli, a.web = a.work.resolve(), a.ocelli.resolve(), a.web.resolve()
    a.venv = a.venv or a.work / "venv"
    return a


def main():
    a = arguments()
    if a.table:
        machine, *records = map(json.loads, a.table.read_text().splitlines())
        return print(markdown(machine, records))
    chosen = [unit for section, unit in units.units().items() if section in a.only]
    models = Models(a)
    for engine in {engine.name: engine for unit in chosen for engine in unit.engines}.values():
        models.ready(engine.model)
    if a.rounds == 0:
        return
    session = Session(a, models)
    try:
        for unit in chosen:
            session.measure(unit)
    except KeyboardInterrupt:
        say("stopped; the table has what was measured until then")
    finally:
        session.close()
    table = markdown(session.machine, session.records)
    a.out.with_suffix(".md").write_text(table)
    print(table)


def say(text):
    print(f"web peers: {text}", file=sys.stderr, flush=True)


class Models:
    """What engines load, made when it is not there yet."""

    def __init__(self, a):
        self.a, self.converters = a, None
        self.npm = a.work / "npm-web"
        self.chromium = os.environ.get("CHROMIUM") or next(
            (path for path in ["/usr/lib/chromium/chromium", *map(shutil.which, CHROMIUM)] if path and Path(path).exists()), None)
        if self.chromium is None:
            sys.exit("web peers: there is no Chromium: install it, or set CHROMIUM to its program")
        if not (a.web / "pkg/ocelli_web.js").exists():
            sys.exit(f"web peers: there is no {a.web / 'pkg'}: cargo run --bin xtask -- web")
        self.install()

    def install(self):
        """The peer and the driver, without a lock file and without scripts."""
        def version(package):
            found = self.npm / "node_modules" / package.rpartition("@")[0] / "package.json"
            return json.loads(found.read_text())["version"] if found.exists() else None
        if any(version(package) != package.rpartition("@")[2] for package in NPM):
            say(f"npm install {' '.join(NPM)}")
            self.npm.mkdir(parents=True, exist_ok=True)
            reason = install.failure(["npm", "install", "--no-save", "--ignore-scripts", "--prefix", str(self.npm), *NPM])
            if reason:
                sys.exit(f"web peers: npm: {reason}")

    def synth(self, name):
        folder = self.a.work / "models" / name
        if not folder.exists():
            say(f"ocelli synth {name}")
            folder.parent.mkdir(parents=True, exist_ok=True)
            self.run([str(self.a.ocelli), "synth", name, str(folder)])
        return folder

    def ready(self, model):
        """The folder of a model."""
        if model == "clip":
            return self.synth(SYNTH[model])
        if model in CONVERTED:
            return self.converted(model)
        exported = self.a.work / "converted/web-export/models" / f"fastvlm-{model}"
        if not exported.exists():
            folder = self.synth(SYNTH[model])
            say(f"ocelli web export --quant {model}")
            self.run([str(self.a.ocelli), "web", "export", "--model", str(folder), "--quant", model, "--name", exported.name,
                      "--out", str(exported.parents[1])])
        return exported

    def converted(self, model):
        source, job = CONVERTED[model]
        # Another question is another model: its tokens are part of it.
        out = self.a.work / "converted/web" / model
        if out.exists():
            return out
        folder = self.ready(source) if source in CONVERTED else self.synth(source)
        if self.converters is None:
            self.converters = install.install(self.a.venv, self.npm, ("torch", "onnxruntime"))
            if self.converters:
                sys.exit(f"web peers: {self.converters}")
        say(f"converting {model}")
        cache = self.a.work / "converted" / f"web-of-{source}"
        spec = {**job, "folder": str(folder), "cache": str(cache), "out": str(out)}
        self.run([str(self.a.venv / "bin/python"), str(HERE / "models.py"), json.dumps(spec)])
        return out

    def run(self, command):
        if subprocess.run(command, stdout=sys.stderr).returncode != 0:
            sys.exit(f"web peers: this failed: {' '.join(command)}")


class Browser:
    """Chromium with the page, in a process of its own."""

    def __init__(self, models, site):
        spec = {"site": str(site), "npm": str(models.npm), "chromium": models.chromium}
        self.process = subprocess.Popen(["node", str(HERE / "browser.mjs"), json.dumps(spec)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.about = self.answer()

    def call(self, call, engine, **request):
        self.process.stdin.write(json.dumps({"call": call, "name": engine.name, **request}) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"web peers: the browser ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Session:
    """One comparison: its records, which are written as they come."""

    def __init__(self, a, models):
        self.a, self.models, self.records = a, models, []
        self.site = a.work / "web-site"
        self.links()
        self.browser = Browser(models, self.site)
        self.machine = describe(a, self.browser.about)
        self.out = a.out.open("w")
        self.write(self.machine)

    def links(self):
        """The folder that the browser sees, made of links."""
        shutil.rmtree(self.site, ignore_errors=True)
        self.site.mkdir(parents=True)
        (self.site / "models").mkdir()
        for name in PAGE:
            (self.site / name).symlink_to(HERE / name)
        for name in BUILDS:
            (self.site / name).symlink_to(self.a.web / name)
        (self.site / "onnxruntime-web").symlink_to(self.models.npm / "node_modules/onnxruntime-web/dist")

    def close(self):
        self.browser.close()
        self.out.close()

    def write(self, record):
        self.out.write(json.dumps(record) + "\n")
        self.out.flush()

    def record(self, unit, engine, round_=None, **fields):
        record = {"unit": unit.name, "engine": engine.name, "dtype": engine.dtype, "build": engine.build or None,
                  "round": round_, "time": round(time.time()), "load1": round(os.getloadavg()[0], 2), **fields}
        record = {key: value for key, value in record.items() if value is not None}
        self.records.append(record)
        self.write(record)
        if "error" in record:
            say(f"{engine.name}, {unit.name}: {record['error']}")

    def measure(self, unit):
        """Every engine is loaded and runs until the browser has compiled it for good; then the rounds."""
        say(unit.name)
        ready, first = [], {}
        for engine in unit.engines:
            try:
                begin = time.monotonic()
                info = self.browser.call("start", engine, **self.spec(engine))["info"]
                first[engine.name] = self.browser.call("ask", engine, **self.request(unit, engine, warmup=2, runs=0))
                self.record(unit, engine, info=info, load_and_warm_s=round(time.monotonic() - begin, 1))
                ready.append(engine)
            except Failed as error:
                self.record(unit, engine, error=str(error))
        self.agreement(unit, ready, first)
        for round_ in range(self.a.rounds):
            ours = [engine for engine in ready if engine.is_ours]
            peers = [engine for engine in ready if not engine.is_ours]
            for engine in plan.turns(ours, peers, round_):
                try:
                    self.turn(unit, engine, round_)
                except Failed as error:
                    self.record(unit, engine, round_, error=str(error))
                    ready.remove(engine)
        for engine in unit.engines:
            self.browser.call("end", engine)

    def spec(self, engine):
        folder = self.models.ready(engine.model)
        link = self.site / "models" / engine.model
        if not link.exists():
            link.symlink_to(folder)
        spec = {"script": "ocelli" if engine.is_ours else "onnxruntime", "folder": f"models/{engine.model}"}
        if engine.is_ours:
            if not (self.a.web / engine.build / "ocelli_web.js").exists():
                raise Failed(f"there is no {engine.build}: cargo run --bin xtask -- web --relaxed")
            spec |= {"build": engine.build, "files": files(folder), **engine.options}
        return spec

    def request(self, unit, engine, warmup, runs):
        return {"work": unit.work, "unit": unit.ask | engine.ask, "warmup": warmup, "runs": runs, "seconds": TURN_S}

    def turn(self, unit, engine, round_):
        """Some runs, and how busy the machine was meanwhile."""
        begin, busy = time.monotonic(), worker.busy_s()
        answer = self.browser.call("ask", engine, **self.request(unit, engine, unit.warmup, self.a.runs))
        busy_cores = (worker.busy_s() - busy) / (time.monotonic() - begin)
        self.record(unit, engine, round_, times_ms=[round(ms, 3) for ms in answer["times_ms"]],
                    context=answer.get("context"), busy_cores=round(busy_cores, 2))

    def agreement(self, unit, ready, first):
        """That the engines compute the same: cosine of embeddings, or equal tokens of one prompt."""
        of_peer = next((first[engine.name] for engine in ready if not engine.is_ours), None)
        for engine in ready:
            answer = first[engine.name]
            if of_peer is None or not engine.is_ours:
                continue
            if answer.get("context") != of_peer.get("context"):
                self.record(unit, engine, error=f"{answer.get('context')} positions, not {of_peer.get('context')}")
                ready.remove(engine)
            elif "embedding" in answer:
                cosine = sum(x * y for x, y in zip(answer["embedding"], of_peer["embedding"]))
                self.record(unit, engine, cosine=round(cosine, 6))
            elif "tokens" in answer:
                same = sum(x == y for x, y in zip(answer["tokens"], of_peer["tokens"]))
                compared = min(len(answer["tokens"]), len(of_peer["tokens"]))
                self.record(unit, engine, same_tokens=same, of_tokens=compared)


def files(folder):
    """Names of a model's files, and what they are cut into."""
    manifest = folder / "manifest.json"
    if manifest.exists():
        listed = json.loads(manifest.read_text())["files"]
        return [{"name": f["name"], "pieces": [s["file"] for s in f.get("shards", [])] or [f["name"]]} for f in listed]
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".json", ".txt", ".safetensors"))
    listed = [{"name": name, "pieces": [name]} for name in names]
    if "open_clip_config.json" in names and not {"tokenizer.json", "vocab.json"} & set(names):
        # Its tokenizer lies beside the module.
        listed.append({"name": "clip_merges.bin", "pieces": ["../../pkg/clip_merges.bin"]})
    return listed


def describe(a, about):
    cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "crates", "bench"], capture_output=True, text=True).stdout.strip()
    return {
        "record": "machine", "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu, "cores": len(os.sched_getaffinity(0)), "threads": 1, "kernel": platform.release(),
        "realtime": os.sched_getscheduler(0) != os.SCHED_OTHER, "load1": round(os.getloadavg()[0], 2),
        "browser": about["browser"], "cross_origin_isolated": about["isolated"], "commit": commit + ("+" if changed else ""),
        "rounds": a.rounds, "runs": a.runs, "versions": dict(package.rsplit("@", 1) for package in NPM),
    }


# The table.

def markdown(machine, records):
    times = report.pooled(records)
    lines = [line(unit, engines) for unit, engines in times.items()]
    busy = [record["busy_cores"] for record in records if "busy_cores" in record]
    priority = "real-time priority" if machine["realtime"] else "ordinary priority"
    parts = [
        "# Ocelli beside onnxruntime-web, WebAssembly in Chromium",
        f"{machine['date']}, {machine['cpu']}, {machine['browser']}, one thread of {machine['cores']} cores on both sides, no "
        f"cross-origin isolation, {priority}, commit {machine['commit']}, onnxruntime-web "
        f"{machine['versions']['onnxruntime-web']}. All programs together kept {statistics.median(busy):.2f} cores busy "
        f"(median of {len(busy)} turns; 1 is the engine itself), {max(busy):.2f} at worst." if busy else "Nothing was measured.",
        "Milliseconds: median (P90, n) of all rounds. Ratio: the median by that of the peer's quickest.",
        report.table(["work", "Ocelli, simd128", "Ocelli, relaxed SIMD", "peer", "ratio", "ratio, relaxed"], lines),
        "## The same answers", "\n".join(agreements(records)) or "Not compared.",
        "## Not run", "\n".join(report.failures(records)) or "Nothing failed.",
    ]
    return "\n\n".join(parts) + "\n"


def line(unit, engines):
    relaxed = [engine for engine in engines if engine.endswith("relaxed")]
    plain = [engine for engine in engines if report.is_ours(engine) and engine not in relaxed]
    peers = [engine for engine in engines if not report.is_ours(engine)]
    best = {side: min((statistics.median(engines[e]) for e in names), default=None)
            for side, names in (("plain", plain), ("relaxed", relaxed), ("peers", peers))}
    cells = ["; ".join(report.cell(e, engines[e], 0) for e in names) or "-" for names in (plain, relaxed, peers)]
    ratios = [f"{best[side] / best['peers']:.2f}" if best[side] and best["peers"] else "-" for side in ("plain", "relaxed")]
    return [unit, *cells, *ratios]


def agreements(records):
    lines = []
    for record in records:
        if "cosine" in record:
            lines.append(f"- {record['engine']}, {record['unit']}: cosine with the peer's embedding {record['cosine']}")
        if "same_tokens" in record:
            lines.append(f"- {record['engine']}, {record['unit']}: {record['same_tokens']} of {record['of_tokens']} "
                         "tokens are the first peer's")
    return lines


if __name__ == "__main__":
    main()
