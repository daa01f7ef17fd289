"""The table of web/run.py, without a browser."""
import importlib.util
import sys
import unittest
from pathlib import Path

WEB = Path(__file__).resolve().parent / "web"
sys.path.insert(0, str(WEB))
spec = importlib.util.spec_from_file_location("web_run", WEB / "run.py")
web_run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(web_run)

MACHINE = {"date": "now", "cpu": "CPU", "browser": "Chromium 1", "cores": 2, "realtime": True, "commit": "abc",
           "versions": {"onnxruntime-web": "1.0"}}


def turn(engine, *times):
    return {"unit": "picture", "engine": engine, "times_ms": list(times), "busy_cores": 1.0}


class Table(unittest.TestCase):
    def test_each_build_is_divided_by_the_quickest_peer(self):
        records = [turn("ocelli f32", 30, 50), turn("ocelli f32", 40), turn("ocelli f32, relaxed", 20),
                   turn("ONNX Runtime f32", 80), turn("ONNX Runtime int8", 160)]
        text = web_run.markdown(MACHINE, records)
        row = next(line for line in text.splitlines() if line.startswith("| picture"))
        self.assertIn("ocelli f32 40.0 (48.0, 3)", row)
        self.assertTrue(row.endswith("| 0.50 | 0.25 |"), row)

    def test_what_failed_or_disagrees_is_told(self):
        records = [turn("ocelli f32", 30), {"unit": "picture", "engine": "ONNX Runtime f32", "error": "no memory"},
                   {"unit": "picture", "engine": "ocelli f32", "cosine": 0.5}]
        text = web_run.markdown(MACHINE, records)
        self.assertIn("| - | - | - |", text)
        self.assertIn("- ONNX Runtime f32 (picture): no memory", text)
        self.assertIn("embedding 0.5", text)

    def test_every_model_can_be_made(self):
        for unit in web_run.units.units().values():
            names = [engine.name for engine in unit.engines]
            self.assertEqual(len(names), len(set(names)))
            self.assertTrue(unit.ours and unit.peers)
            for engine in unit.engines:
                self.assertIn(engine.model, {**web_run.SYNTH, **web_run.CONVERTED})


if __name__ == "__main__":
    unittest.main()
