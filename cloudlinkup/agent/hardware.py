"""What this machine is: the facts that bit-exact replay depends on, and how much memory training may use.

Read from torch, psutil and /proc; nothing is asked over the network. Covers CPUs and one CUDA device (the first).
"""

from __future__ import annotations

import platform
from pathlib import Path

import psutil
import torch

from cloudlinkup.errors import BadInput
from cloudlinkup.training.networks import huggingface
from cloudlinkup.wire.messages import Hardware

DEVICES = ("auto", "cpu", "cuda")


def choose_device(wanted: str) -> str:
    """`auto` is the GPU where torch can use one. Raises BadInput for an unknown or absent device."""
    if wanted not in DEVICES:
        raise BadInput("--device", wanted, "unknown", f"use one of {', '.join(DEVICES)}")
    present = torch.cuda.is_available()
    if wanted == "cuda" and not present:
        raise BadInput("--device", wanted, "torch finds no usable CUDA device", "use --device cpu")
    return "cuda" if present and wanted != "cpu" else "cpu"


def describe(device: str, threads: int) -> Hardware:
    """The hardware as it stands in the hello. `memory`: half of the machine's, or of the GPU's, in bytes."""
    version = str(torch.__version__)
    if device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        return Hardware(
            kind="cuda",
            name=facts.name[:200],
            memory=facts.total_memory // 2,
            threads=threads,
            torch=version,
            capability=f"{facts.major}.{facts.minor}",
        )
    return Hardware(
        kind="cpu",
        name=_cpu_name()[:200],
        memory=psutil.virtual_memory().total // 2,
        threads=threads,
        torch=version,
        capability=str(torch.backends.cpu.get_cpu_capability()),
    )


def extras() -> tuple[str, ...]:
    """Optional parts of this project that are installed here, with the versions that bit-exact replay depends on."""
    found = huggingface.extra()
    return () if found is None else (found,)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or "unknown"
