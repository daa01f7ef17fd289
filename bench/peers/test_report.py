"""The table's arithmetic and the order of turns. Needs nothing but Python: `python3 -m unittest discover bench/peers`."""
import argparse
import unittest

import gpu
import plan
import report
from report import Row

MACHINE = {"date": "2026-11-21", "cpu": "a CPU", "threads": 2, "cores": 2, "realtime": True, "load1": 0.1,
           "versions": {"torch": "2.15.0"}}


def record(engine, times, unit="encode 1024", **fields):
    return {"section": "encode", "unit": unit, "engine": engine, "times_ms": times, **fields}


class Table(unittest.TestCase):
    def test_percentiles_lie_between_values(self):
        self.assertEqual(report.percentile([30, 10, 20], 50), 20)
        self.assertAlmostEqual(report.percentile([10, 20], 90), 19)
        self.assertEqual(report.percentile([7], 90), 7)

    def test_rounds_are_pooled_and_the_best_peer_counts(self):
        records = [record("ocelli bf16", [40, 44]), record("torch bf16", [100, 90]), record("OpenVINO bf16", [120]),
                   record("ocelli bf16", [42]), record("torch bf16", [110])]
        engines = report.pooled(records)["encode 1024"]
        self.assertEqual(engines["ocelli bf16"], [40, 44, 42])
        row = Row("encode", "encode 1024", 0.45)
        self.assertAlmostEqual(report.ratio(row, engines), 0.42)
        line = report.line(row, engines, {("encode 1024", "ocelli bf16"): 21.0})
        self.assertEqual(line, ["encode", "ocelli bf16 42.0 (43.6, 3)", "torch bf16 100 (108, 3)",
                                "OpenVINO bf16 120 (120, 1)", "0.42", "0.45", "yes", "50%"])

    def test_a_row_sees_only_the_engines_that_it_names(self):
        engines = {"ocelli q4": [11], "ocelli bf16": [33], "llama.cpp q4_0": [14], "llama.cpp bf16": [60], "torch bf16": [66]}
        four = Row("", "decode", 0.92, ("ocelli q4",), ("llama.cpp q4_0",))
        full = Row("", "decode", 0.5, ("ocelli bf16",), ("llama.cpp bf16", "torch bf16"))
        self.assertAlmostEqual(report.ratio(four, engines), 11 / 14)
        self.assertAlmostEqual(report.ratio(full, engines), 33 / 60)
        self.assertEqual(report.line(full, engines, {})[6], "**no**")

    def test_a_side_that_was_not_measured_says_so(self):
        row = Row("x", "encode 1024", 0.45)
        self.assertIsNone(report.ratio(row, {"ocelli bf16": [1]}))
        self.assertEqual(report.line(row, {"ocelli bf16": [1]}, {})[2:7], ["not measured", "-", "-", "0.45", "-"])
        self.assertEqual(report.line(row, {"torch bf16": [1]}, {})[1], "not measured")

    def test_batches_are_told_in_pictures_a_second(self):
        row = Row("x", "S0 image x32", 0.5, batch=32)
        line = report.line(row, {"ocelli bf16": [320], "torch bf16": [800]}, {})
        self.assertEqual(line[1:3], ["ocelli bf16 100.0/s (100.0, 1)", "torch bf16 40.0/s (40.0, 1)"])
        self.assertEqual(line[4:7], ["0.40", "0.50", "yes"])

    def test_failures_and_noise_are_told(self):
        records = [record("ocelli bf16", [1], busy_others=0.1), record("torch bf16", [2], busy_others=0.9),
                   {"section": "encode", "unit": "encode 1024", "engine": "OpenVINO bf16", "error": "pip: no such version"}]
        text = report.markdown(MACHINE, records, [Row("x", "encode 1024", 0.45)], {})
        self.assertIn("- OpenVINO bf16 (encode 1024): pip: no such version", text)
        self.assertIn("**Not quiet**: more than 0.5 in 1 turns", text)

    def test_memory_is_held_to_its_limit_only_where_one_process_answers_once(self):
        records = [{"section": "memory", "unit": "memory", "engine": "ocelli bf16", "peak_rss_bytes": 1800 * 2**20},
                   {"section": "ttft", "unit": "ttft 1024", "engine": "torch bf16", "peak_rss_bytes": 2400 * 2**20}]
        self.assertEqual(report.memory(records, {"ocelli bf16": 1700}), [
            ["memory", "ocelli bf16", "1800 MiB", "1700 MiB", "**no**"], ["ttft", "torch bf16", "2400 MiB", "-", "-"]])


class Plan(unittest.TestCase):
    def test_ours_run_between_the_peers(self):
        self.assertEqual(plan.turns(["o"], ["a", "b", "c"], 0), ["o", "a", "o", "b", "o", "c"])
        self.assertEqual(plan.turns(["o"], ["a", "b", "c"], 1), ["o", "b", "o", "c", "o", "a"])
        self.assertEqual(plan.turns(["x", "y", "z"], ["a"], 0), ["x", "a", "y", "z"])
        self.assertEqual(plan.turns([], ["a"], 0), ["a"])

    def test_every_row_names_engines_of_its_unit(self):
        groups = plan.encode(plan.SIDES) + plan.llm(100) + plan.ttft(300, 256) + plan.clip(plan.CLIPS, lambda variant: 256)
        units = {unit.name: unit for group in groups for unit in group.units}
        for row in plan.rows():
            unit = units[row.unit]
            self.assertLessEqual(set(row.ours), {ours.engine for ours in unit.ours}, row)
            self.assertLessEqual(set(row.peers), {peer.engine for peer in unit.peers}, row)

    def test_on_a_gpu_torch_alone_takes_part_and_instruction_sets_do_not(self):
        groups = gpu.of_device(plan.encode(gpu.SIDES) + plan.llm(100) + plan.ttft(300, 256))
        units = [unit for group in groups for unit in group.units]
        self.assertEqual({peer.module for unit in units for peer in unit.peers}, {"torch"})
        self.assertFalse(any(ours.env for unit in units for ours in unit.ours) or any(unit.limit for unit in units))
        tried = argparse.Namespace(sides=gpu.SIDES)
        self.assertEqual({row.unit for row in gpu.lines(tried)}, {unit.name for unit in units})


if __name__ == "__main__":
    unittest.main()
