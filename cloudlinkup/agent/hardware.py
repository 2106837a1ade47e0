"""What this machine is: the facts that bit-exact replay depends on, and how much memory training may use.

Read from torch, psutil and /proc; nothing is asked over the network. Covers CPUs and CUDA devices, one a worker.
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

DEVICES = "auto, cpu, cuda, one GPU of several as cuda:1, or for several all, or a list as cuda:0,cuda:1"
MOST_DEVICES = 32  # that work under one agent key from one machine


def choose_device(wanted: str) -> str:
    """`auto` is the GPU where torch can use one; "cuda:1" is the second. Raises BadInput for one that is not there."""
    check_device(wanted)
    before_cuda()
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = _number(wanted)
    if wanted.startswith("cuda") and number >= present:
        found = f"torch finds {present} usable CUDA devices" if present else "torch finds no usable CUDA device"
        raise BadInput("--device", wanted, found, "use --device cpu" if not present else "number them from 0")
    return "cuda" if present and wanted == "auto" else wanted if wanted != "auto" else "cpu"


def choose_devices(wanted: str) -> dict[int | None, str]:
    """The devices that work, by number: `{None: device}` for a single one. GPUs are numbered as torch numbers them,
    a list that is not of GPUs alone by its order. Raises BadInput for one that is not there."""
    check_devices(wanted)
    if wanted == "all":
        present = torch.cuda.device_count() if torch.cuda.is_available() else 0
        names = [f"cuda:{number}" for number in range(min(present, MOST_DEVICES))] or ["cpu"]
    else:
        names = wanted.split(",")
    chosen = [choose_device(name) for name in names]
    if len(chosen) == 1:
        return {None: chosen[0]}
    numbers = [_number(name) for name in chosen] if "cpu" not in chosen else range(len(chosen))
    return dict(zip(numbers, chosen, strict=True))


def check_devices(wanted: str) -> None:
    """Raises BadInput for what names no device or list of devices, present or not. The CPU may be named several times:
    each of them trains with a thread pool of its own."""
    names = wanted.split(",")
    if wanted == "all":
        return
    for name in names:
        check_device(name)
    gpus = [_number(name) for name in names if name.startswith("cuda")]
    if len(names) > 1 and "auto" in names:
        raise BadInput("--device", wanted, "auto chooses one device", "name each of several, or use --device all")
    if len(set(gpus)) < len(gpus):
        raise BadInput("--device", wanted, "it names a GPU twice", "name each GPU once")
    if len(names) > MOST_DEVICES:
        raise BadInput("--device", wanted, f"more than {MOST_DEVICES} devices", "use another --name for the others")


def _number(gpu: str) -> int:
    return int(gpu.partition(":")[2] or 0)


def check_device(wanted: str) -> None:
    """Raises BadInput for what names no device, present or not."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", wanted, flags=re.ASCII):
        raise BadInput("--device", wanted, "unknown", f"use one of {DEVICES}")


def describe(device: str, threads: int, *, alike: int = 1) -> Hardware:
    """The hardware as it stands in the hello. `memory`: half of the machine's, or of the GPU's, in bytes, divided among
    as many as work on this very device."""
    version = str(torch.__version__)
    if device != "cpu":
        facts = torch.cuda.get_device_properties(torch.device(device))
        return Hardware(
            kind="cuda",
            name=facts.name[:200],
            memory=facts.total_memory // 2 // alike,
            threads=threads,
            torch=version,
            capability=f"{facts.major}.{facts.minor}",
        )
    return Hardware(
        kind="cpu",
        name=_cpu_name()[:200],
        memory=psutil.virtual_memory().total // 2 // alike,
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
