"""Models for engines that cannot open the checkpoint."""
import json
import subprocess
import sys
from pathlib import Path


def exported(spec, name, **what):
    """The file in the cache, which export.py makes the first time, so that its memory is not counted as the peer's."""
    out = spec["cache"] / name
    if not out.exists():
        job = {"folder": str(spec["folder"]), "cache": str(spec["cache"]), "out": str(out), **what}
        subprocess.run([sys.executable, Path(__file__).with_name("export.py"), json.dumps(job)], check=True)
    return out
