"""Three short standard measurements of this device, so that the planner can compare it with its reference.

CPU: `matmul` (compute-bound), `elementwise` (memory-bound) and `mlp_step` (many small operations: launch-bound), in
fp32. CUDA: three small networks (`mlp`, `cnn`, `attention`), a training step each, in fp32 and under fp16 autocast,
with synchronisation around each timed step. Each is the median of several runs after a warm-up; the spread is
(p90 - p10) / median. They are measured at full duty: the share that is offered is declared apart from them.

The budget is 3 CPU-seconds (CPU) or 30 s (CUDA) for all together. Results are kept in `probes.json` under a
fingerprint of the hardware and of this module's version, and measured again when either changes.
The CUDA networks could not be run on a GPU by those who wrote this; the same code is tested on a CPU at a tiny size.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from cloudlinkup.training.threads import torch_threads
from cloudlinkup.types import canonical_json
from cloudlinkup.wire.messages import Hardware, Probe

VERSION = 1  # of the kernels below: another version is another measurement
CPU_SECONDS = 1.8  # CPU time for all three together, of the 3 s promised; the rest is building and warm-up
CUDA_SECONDS = 24.0  # of the 30 s promised
_LEAST, _MOST = 5, 400  # timed runs of each

_probes: TypeAdapter[tuple[Probe, ...]] = TypeAdapter(tuple[Probe, ...])


def fingerprint(hardware: Hardware) -> str:
    """What a cached measurement belongs to."""
    return hashlib.sha256(canonical_json(hardware) + f"|{VERSION}".encode()).hexdigest()


def cached(path: Path, hardware: Hardware) -> tuple[Probe, ...] | None:
    """The measurement kept for exactly this hardware, or None."""
    try:
        kept = json.loads(path.read_text())
        if kept["fingerprint"] != fingerprint(hardware):
            return None
        return _probes.validate_python(kept["probes"])
    except (OSError, ValueError, TypeError, KeyError, ValidationError):
        return None


def measure_or_cached(path: Path, hardware: Hardware, device: str = "cuda") -> tuple[Probe, ...]:
    """The kept measurement, or a new one that is then kept. Blocks for some seconds: call it in a thread."""
    if (kept := cached(path, hardware)) is not None:
        return kept
    probes = measure(hardware, device)
    document = {"fingerprint": fingerprint(hardware), "probes": [probe.model_dump() for probe in probes]}
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1))
    return probes


def measure(hardware: Hardware, device: str = "cuda") -> tuple[Probe, ...]:
    """Runs the probes now. `device`: which GPU, of several."""
    return measure_networks(device, CUDA_SECONDS) if hardware.kind == "cuda" else _measure_cpu(hardware.threads)


def _summary(name: str, precision: str, seconds: list[float]) -> Probe:
    low, middle, high = np.percentile(seconds, [10, 50, 90])
    return Probe.model_validate(
        {"name": name, "precision": precision, "seconds": float(middle), "spread": float((high - low) / middle)}
    )


def _time(run: Callable[[], object], budget: float, busy: Callable[[], float]) -> list[float]:
    """Wall seconds of single runs until `budget` seconds of `busy` time are used: at most 400 runs."""
    start = busy()
    run()  # warm-up
    seconds: list[float] = []
    while len(seconds) < _MOST:
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
        used = busy() - start
        each = used / (len(seconds) + 1)
        if used + each > budget and (len(seconds) >= _LEAST or used > 1.25 * budget):
            break
    return seconds


def _measure_cpu(threads: int) -> tuple[Probe, ...]:
    generator = torch.Generator().manual_seed(0)
    with torch_threads(threads):
        a, b = (torch.randn(384, 384, generator=generator) for _ in range(2))
        wide = torch.randn(1_500_000, generator=generator)  # 6 MB: larger than a core's own caches
        out = torch.empty_like(wide)
        each = CPU_SECONDS / 3
        return (
            _summary("matmul", "fp32", _time(lambda: a @ b, each, time.process_time)),
            _summary("elementwise", "fp32", _time(lambda: torch.add(wide, wide, out=out), each, time.process_time)),
            _summary("mlp_step", "fp32", _time(_mlp_step(generator), each, time.process_time)),
        )


def _mlp_step(generator: torch.Generator) -> Callable[[], object]:
    """Ten optimizer steps of a tiny network: almost only the cost of starting small operations."""
    x = torch.randn(32, 16, generator=generator)
    y = torch.randint(0, 4, (32,), generator=generator)
    layers = [(torch.randn(n, m, generator=generator) * 0.1).requires_grad_() for n, m in ((16, 16), (16, 16), (4, 16))]

    def run() -> None:
        for _ in range(10):
            h = x
            for weight in layers[:-1]:
                h = torch.relu(h @ weight.t())
            torch.nn.functional.cross_entropy(h @ layers[-1].t(), y).backward()
            with torch.no_grad():
                for weight in layers:
                    assert weight.grad is not None
                    weight.sub_(weight.grad, alpha=1e-3)
                    weight.grad = None

    return run


def measure_networks(device: str, seconds: float, scale: int = 1) -> tuple[Probe, ...]:
    """The three networks' training steps on `device` in both precisions, in about `seconds` of wall time.

    `scale` divides every width and batch; only 1 is a probe that can be compared, more is for trying the path out.
    """
    torch.manual_seed(0)
    n, wide, channels, rows, image = 1024 // scale, 2048 // scale, 64 // scale, max(2, 64 // scale), 64 // scale
    networks = {
        "mlp": (
            torch.nn.Sequential(torch.nn.Linear(n, wide), torch.nn.ReLU(), torch.nn.Linear(wide, n)),
            torch.randn(256 // scale, n),
        ),
        "cnn": (
            torch.nn.Sequential(
                torch.nn.Conv2d(3, channels, 3, padding=1),
                torch.nn.ReLU(),
                torch.nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
                torch.nn.ReLU(),
                torch.nn.Conv2d(2 * channels, 2 * channels, 3, stride=2, padding=1),
            ),
            torch.randn(rows, 3, image, image),
        ),
        "attention": (
            torch.nn.TransformerEncoderLayer(256 // scale, 4, 1024 // scale, dropout=0.0, batch_first=True),
            torch.randn(max(1, 32 // scale), max(2, 128 // scale), 256 // scale),
        ),
    }
    found: list[Probe] = []
    for name, (made, drawn) in networks.items():
        network, batch = made.to(device), drawn.to(device)
        for precision in ("fp32", "fp16"):
            times = _time(_network_step(network, batch, precision), seconds / 6, time.perf_counter)
            found.append(_summary(name, precision, times))
    return tuple(found)


def _network_step(network: torch.nn.Module, rows: torch.Tensor, precision: str) -> Callable[[], object]:
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    kind = rows.device.type

    def synchronise() -> None:
        if kind == "cuda":
            torch.cuda.synchronize(rows.device)  # the step has truly ended

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(kind, torch.float16, enabled=precision == "fp16"):
            loss = network(rows).float().pow(2).mean()
        loss.backward()
        optimizer.step()
        synchronise()

    synchronise()
    return run
