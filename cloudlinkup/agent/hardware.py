"""What this machine is: the facts that bit-exact replay depends on, and how much memory training may use.

Read from torch, psutil and /proc; nothing is asked over the network. Covers CPUs and CUDA devices, one an agent.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

import psutil
import torch

from cloudlinkup.errors import BadInput
from cloudlinkup.training.devices import before_cuda
from cloudlinkup.training.networks import huggingface
from cloudlinkup.wire.messages import Hardware

DEVICES = "auto, cpu, cuda, or one GPU of several as cuda:0, cuda:1"


def choose_device(wanted: str) -> str:
    """`auto` is the GPU where torch can use one; "cuda:1" is the second. Raises BadInput for one that is not there."""
    check_device(wanted)
    before_cuda()
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = int(wanted.partition(":")[2] or 0)
    if wanted.startswith("cuda") and number >= present:
        found = f"torch finds {present} usable CUDA devices" if present else "torch finds no usable CUDA device"
        raise BadInput("--device", wanted, found, "use --device cpu" if not present else "number them from 0")
    return "cuda" if present and wanted == "auto" else wanted if wanted != "auto" else "cpu"


def check_device(wanted: str) -> None:
    """Raises BadInput for what names no device, present or not."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", wanted, flags=re.ASCII):
        raise BadInput("--device", wanted, "unknown", f"use one of {DEVICES}")


def describe(device: str, threads: int) -> Hardware:
    """The hardware as it stands in the hello. `memory`: half of the machine's, or of the GPU's, in bytes."""
    version = str(torch.__version__)
    if device != "cpu":
        facts = torch.cuda.get_device_properties(torch.device(device))
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
