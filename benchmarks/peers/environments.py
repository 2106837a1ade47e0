"""The peers' own environments, outside our lock: `python -m benchmarks.peers.environments [--folder DIR]`.

One virtual environment for each peer, of the versions named here, made with uv from the package index that the user has
set up. They lie in a folder that git ignores. Plain Dask and ours run in this project's environment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / ".cloudlinkup/peers-venvs"
TORCH = "torch==2.13.0"
PACKAGES = {"flower": "flwr==1.41.0", "ray": "ray[train]==2.60.0", "hivemind": "hivemind==1.1.12"}


def interpreter(folder: Path, environment: str) -> Path:
    """The environment's Python; this one for the empty name."""
    return folder / environment / "bin/python" if environment else Path(sys.executable)


def make(folder: Path) -> None:
    """Makes those that are missing."""
    uv = Path(sys.executable).with_name("uv")
    folder.mkdir(parents=True, exist_ok=True)
    for name, package in PACKAGES.items():
        place = folder / name
        if (place / "ready").exists():
            continue
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, place], check=True)
        env = {**os.environ, "VIRTUAL_ENV": str(place)}
        words = [uv, "pip", "install", "--quiet", package, TORCH, "numpy", "safetensors"]
        subprocess.run(words, check=True, env=env)
        (place / "ready").touch()
        print(f"{name}: {package}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    make(parser.parse_args().folder.resolve())
