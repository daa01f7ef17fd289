"""One peer in a process of its own, which times what it is asked for.

    python worker.py SPEC

SPEC is a JSON object: peer, work, dtype, threads, folder (the checkpoint), cache (for converted ones).
Once loaded it answers {"ready": true}. Then each line on stdin is {"unit": {..}, "warmup": n, "runs": n, "seconds": x},
and each answer a line {"times_ms": [..], "busy_others": cores, "peak_rss_bytes": n}, or {"error": ".."}.
"""
import ctypes
import importlib
import json
import os
import pathlib
import signal
import sys
import time
import traceback


PR_SET_PDEATHSIG = 1


def main():
    # A worker that stands still would outlive whoever started it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # What libraries print goes to stderr.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    spec = json.loads(sys.argv[1])
    spec["folder"], spec["cache"] = pathlib.Path(spec["folder"]), pathlib.Path(spec["cache"])
    runs = {}
    try:
        prepare = getattr(importlib.import_module("peer_" + spec["peer"]), spec["work"])(spec)
        print(json.dumps({"ready": True}), file=answers)
    except Exception as error:
        return print(json.dumps({"error": told(error)}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        key = json.dumps(request["unit"], sort_keys=True)
        try:
            run = runs.get(key) or runs.setdefault(key, prepare(request["unit"]))
            answer = measure(run, request["warmup"], request["runs"], request["seconds"], "steps" in request["unit"])
        except Exception as error:
            answer = {"error": told(error)}
        print(json.dumps(answer), file=answers)


def told(error):
    traceback.print_exc()
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def measure(run, warmup, runs, seconds, in_steps):
    """A run in steps returns the ms of each; another one is timed as a whole. No run begins after `seconds`."""
    for _ in range(warmup):
        run()
    times, begin = [], (time.perf_counter(), busy_s(), sum(os.times()[:2]))
    for _ in range(runs):
        start = time.perf_counter()
        if times and start - begin[0] > seconds:
            break
        own = run()
        whole = (time.perf_counter() - start) * 1e3
        times.extend(own if in_steps else [whole])
    end = (time.perf_counter(), busy_s(), sum(os.times()[:2]))
    wall, busy, mine = (after - before for before, after in zip(begin, end))
    others = max(0.0, busy - mine) / wall if runs and wall > 0.2 else None
    return {"times_ms": times, "busy_others": others, "peak_rss_bytes": peak_rss()}


def busy_s():
    """Seconds that all cores of the machine worked, or were taken away by a hypervisor."""
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, open("/proc/stat").readline().split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def peak_rss():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
