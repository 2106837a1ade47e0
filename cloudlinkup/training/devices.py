"""What makes a CUDA device compute the same bits each time. It holds for the whole process.

fp32 is fp32: TF32 is off, for products and convolutions, and bf16 products add up in fp32. cuBLAS takes its workspace
setting when it starts, and another workspace may choose another kernel: so it is set before a device is first used, in
the contributor's process (`agent/hardware.py`) as in the auditor's.
"""

from __future__ import annotations

import os

import torch


def before_cuda() -> None:
    """Sets cuBLAS's workspace, for a process that has not used CUDA yet."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def deterministic(device: str) -> None:
    """Asks torch for deterministic kernels on this device; raises RuntimeError later, where there is none. A CPU's
    kernels are deterministic for a number of threads."""
    if device == "cpu":
        return
    before_cuda()
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # it would choose kernels by what was fastest this time
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
