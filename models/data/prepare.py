"""Makes the two small files that the shipped predictor is trained from. Deterministic.

    python -m models.data.prepare RAW_DIR      RAW_DIR/results/<host folder>/*.csv, as in the source repository

`pytorch_gpu_benchmark.csv`: one row per host, precision and network: the median of its measured training steps (forward
and backward, batch 12, one GPU, synchronised) in seconds, their spread (p90 - p10) / median, and how many there were.
`torchvision_graphs.csv`: the features of one such step of each network, traced by `models.features` on the meta device.
It needs torchvision, which nothing else here does; `--no-graphs` leaves that file as it is.

Not taken over: fp64, several GPUs in one machine. SOURCE.txt says where the measurements come from.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
TIMES = HERE / "pytorch_gpu_benchmark.csv"
GRAPHS = HERE / "torchvision_graphs.csv"
BATCH = 12
PRECISIONS = {"half": "fp16", "float": "fp32", "single": "fp32"}


def family(network: str) -> str:
    """The five families that are left out together: resnet, densenet, vgg, squeezenet, mobile."""
    for name in ("densenet", "vgg", "squeezenet"):
        if network.startswith(name):
            return name
    return "mobile" if network.startswith(("mnasnet", "mobilenet", "shufflenet")) else "resnet"


def gpu_type(file_name: str) -> str:
    """The GPU's type out of a file name: "GeForce RTX 2060 with Max-Q Design_1_gpus__..." is an RTX 2060 Max-Q."""
    name = re.split(r"_(?:\d_gpus|double|half|float|single)_", file_name)[0]
    return re.sub(r"^(NVIDIA |GeForce |Tesla |Quadro )+", "", name).replace(" with Max-Q Design", " Max-Q").strip()


def read_times(raw: Path) -> pd.DataFrame:
    """All single-GPU fp16 and fp32 medians; what is no positive finite time is left out.

    Raises ValueError when there is no such file in the folder.
    """
    rows: list[dict[str, object]] = []
    for path in sorted((raw / "results").glob("*/*.csv")):
        folder, name = path.parent.name, path.name
        precision = PRECISIONS.get(next((p for p in re.split(r"[_ ]", name) if p in PRECISIONS or p == "double"), ""))
        gpus = re.search(r"_(\d)_gpus__", name)
        if precision is None or (gpus and gpus[1] != "1"):
            continue
        part = re.search(r"benchmark\((\d)\)", name)
        host = folder + (f"#{part[1]}" if part else "")
        for network, values in pd.read_csv(path).items():
            steps = pd.Series(pd.to_numeric(values, errors="coerce")).to_numpy(dtype=np.float64) / 1000
            steps = steps[np.isfinite(steps) & (steps > 0)]
            if not len(steps) or str(network).startswith("Unnamed"):
                continue
            low, middle, high = np.quantile(steps, [0.1, 0.5, 0.9])
            rows.append(
                {
                    "host": host,
                    "gpu": gpu_type(name),
                    "precision": precision,
                    "network": network,
                    "family": family(str(network)),
                    "seconds": float(f"{middle:.6g}"),
                    "spread": float(f"{(high - low) / middle:.3g}"),
                    "steps": len(steps),
                }
            )
    if not rows:
        raise ValueError(f"{raw} holds no results/<host>/<GPU>_..._<half|float|single>_....csv")
    return pd.DataFrame(rows).sort_values(["host", "precision", "network"], ignore_index=True)


def trace_networks(networks: list[str]) -> pd.DataFrame:
    """Graph features of torchvision networks at batch 12, 224 x 224, fp32. Needs torchvision."""
    import importlib

    import torch

    from models.features import trace

    zoo = importlib.import_module("torchvision.models")
    rows: list[dict[str, object]] = []
    for network in networks:
        module = getattr(zoo, network)(weights=None).to("meta")
        images = torch.empty(BATCH, 3, 224, 224, device="meta")
        labels = torch.empty(BATCH, dtype=torch.int64, device="meta")
        found = trace(module, images, lambda out, y=labels: torch.nn.functional.cross_entropy(out, y))
        rows.append({"network": network, **{k: float(f"{v:.9g}") for k, v in found.items()}})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--no-graphs", action="store_true")
    arguments = parser.parse_args()
    times = read_times(arguments.raw)
    times.to_csv(TIMES, index=False)
    if not arguments.no_graphs:
        trace_networks(sorted(times["network"].unique())).to_csv(GRAPHS, index=False)


if __name__ == "__main__":
    main()
