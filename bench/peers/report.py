"""The table: medians of all rounds, and Ocelli's divided by the best peer's. Standard library only."""
import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A line of the table. `ours` and `peers` name engines of the unit; none named means all of that side."""
    title: str
    unit: str
    # None where nothing is promised.
    at_most: float | None
    ours: tuple = ()
    peers: tuple = ()
    # Pictures of one run, where the table tells pictures in a second.
    batch: int = 0


def percentile(values, p):
    """Linear interpolation (type 7 of Hyndman and Fan), as `ocelli bench` does it."""
    values = sorted(values)
    place = p / 100 * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (place - below)


def pooled(records):
    """`{unit: {engine: [ms, ..]}}` of all rounds."""
    times = {}
    for record in records:
        if record.get("times_ms"):
            times.setdefault(record["unit"], {}).setdefault(record["engine"], []).extend(record["times_ms"])
    return times


def is_ours(engine):
    return engine.startswith("ocelli")


def sides(row, engines):
    """The engines of the row that were measured, ours and theirs, quickest first."""
    def of(ours, named):
        chosen = [e for e in engines if is_ours(e) == ours and (not named or e in named)]
        return sorted(chosen, key=lambda e: statistics.median(engines[e]))
    return of(True, row.ours), of(False, row.peers)


def cell(engine, times, batch):
    median, p90 = statistics.median(times), percentile(times, 90)
    if batch:
        return f"{engine} {1e3 * batch / median:.1f}/s ({1e3 * batch / p90:.1f}, {len(times)})"
    return f"{engine} {number(median)} ({number(p90)}, {len(times)})"


def number(ms):
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"


def ratio(row, engines):
    """Our median by the best peer's, or nothing where a side is missing."""
    ours, theirs = sides(row, engines)
    if not ours or not theirs:
        return None
    return statistics.median(engines[ours[0]]) / statistics.median(engines[theirs[0]])


def line(row, engines, limits):
    ours, theirs = sides(row, engines)
    value = ratio(row, engines)
    names = [cell(e, engines[e], row.batch) for e in theirs]
    limit = limits.get((row.unit, ours[0])) if ours else None
    return [
        row.title,
        "; ".join(cell(e, engines[e], row.batch) for e in ours) or "not measured",
        names[0] if names else "not measured",
        "; ".join(names[1:]) or "-",
        f"{value:.2f}" if value is not None else "-",
        f"{row.at_most:.2f}" if row.at_most else "-",
        "-" if value is None or not row.at_most else "yes" if value <= row.at_most else "**no**",
        f"{limit / statistics.median(engines[ours[0]]):.0%}" if limit else "-",
    ]


def memory(records, limits):
    """Lines of peak memory: the largest of each engine in each unit that tells it."""
    peaks = {}
    for record in records:
        if record.get("peak_rss_bytes") and record["section"] in ("ttft", "memory", "llm"):
            key = (record["section"], record["engine"])
            peaks[key] = max(peaks.get(key, 0), record["peak_rss_bytes"] / 2**20)
    lines = []
    for (section, engine), mib in sorted(peaks.items()):
        limit = limits.get(engine) if section == "memory" else None
        holds = "-" if limit is None else "yes" if mib <= limit else "**no**"
        lines.append([section, engine, f"{mib:.0f} MiB", f"{limit} MiB" if limit else "-", holds])
    return lines


def table(head, lines):
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(str(c) for c in row) + " |" for row in rows)


def quiet(records):
    """What others did meanwhile."""
    busy = [r["busy_others"] for r in records if r.get("busy_others") is not None]
    if not busy:
        return "How busy other programs were is not known."
    worst, loud = max(busy), sum(b > 0.5 for b in busy)
    text = f"Other programs kept {statistics.median(busy):.2f} cores busy (median of {len(busy)} turns), {worst:.2f} at worst."
    return text + (f" **Not quiet**: more than 0.5 in {loud} turns." if loud else " Quiet throughout.")


def failures(records):
    """A line for each engine and reason."""
    units = {}
    for record in records:
        if record.get("error"):
            units.setdefault((record["engine"], record["error"]), {})[record["unit"]] = True
    return [f"- {engine} ({', '.join(names)}): {error}" for (engine, error), names in units.items()]


def markdown(machine, records, rows, memory_limits):
    """The whole report; `records` as in the file of results."""
    times = pooled(records)
    limits = {(r["unit"], r["engine"]): r["limit_ms"] for r in records if r.get("limit_ms")}
    lines = [line(row, times.get(row.unit, {}), limits) for row in rows]
    parts = [
        "# Ocelli beside its peers",
        f"{machine['date']}, {machine['cpu']}, {machine['threads']} threads of {machine['cores']} cores, "
        f"{'real-time priority' if machine['realtime'] else 'ordinary priority'}, load {machine['load1']} at the beginning. "
        + quiet(records),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in machine["versions"].items()) + ".",
        "Milliseconds: median (P90, n) of all rounds. Ratio: our median by the best peer's. Machine: the time that the "
        "machine's measured limits (arithmetic or memory, op by op) allow at least, by our median.",
        table(["work", "Ocelli", "best peer", "other peers", "ratio", "at most", "holds", "machine"], lines),
    ]
    if lines := memory(records, memory_limits):
        parts += ["## Peak memory of the process", table(["section", "engine", "peak", "at most", "holds"], lines)]
    parts += ["## Not run", "\n".join(failures(records)) or "Nothing failed."]
    return "\n\n".join(parts) + "\n"
