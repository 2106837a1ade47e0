"""Training on CUDA gives the same bits each time, in fp32 and bf16, for every kind of network.

Runs on a machine that has just Python, torch, numpy and safetensors, from the checkout:

    CUBLAS_WORKSPACE_CONFIG=:4096:8 python -m unittest -v tests.training.test_gpu tests.verify.test_gpu
"""

from __future__ import annotations

import subprocess
import sys
import unittest
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch

from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from tests.training.specs import LARGER, SPECS, rows_for

try:
    import pytest

    gpu: Any = pytest.mark.gpu
except ImportError:  # a bare machine
    gpu = lambda found: found  # noqa: E731


CUDA = torch.cuda.is_available()
WHY = "needs a CUDA device, and torch finds none"
WORK = ShardWork(b"g" * 32, 5, 3, 0, 400_000)
CHANGES = ({}, {"precision": "bf16"}, {"micro_batch": 3}, {"optimizer": "muon"})


def run(spec: TrainingSpec, segments: int = 3, device: str = "cuda") -> SegmentRunner:
    runner = SegmentRunner(spec, WORK, initial_weights(spec), *rows_for(spec, 400), device=device)
    for _ in range(segments):
        runner.run_segment()
    return runner


@gpu
@unittest.skipUnless(CUDA, WHY)
class Cuda(unittest.TestCase):
    def test_every_kind_gives_the_same_bits_twice(self) -> None:
        for (size, specs), changes in product((("small", SPECS), ("larger", LARGER)), CHANGES):
            for name, spec in specs.items():
                with self.subTest(size, network=name, **changes):
                    changed = replace(spec, **changes)
                    self.assertEqual(run(changed).state_hash(), run(changed).state_hash())

    def test_a_segment_replays_alone_from_its_opened_state(self) -> None:
        for name, changes in product(LARGER, CHANGES):
            with self.subTest(name, **changes):
                spec = replace(LARGER[name], **changes)
                runner = run(spec, segments=2)
                opened = runner.state_bytes()
                runner.run_segment()
                alone = run(spec, segments=0)
                alone.load_state(opened)
                alone.run_segment()
                self.assertEqual(alone.state_hash(), runner.state_hash())

    def test_another_process_gives_the_same_bits(self) -> None:
        script = "import sys; from tests.training.test_gpu import *; print(run(LARGER[sys.argv[1]]).state_hash().hex())"
        for name in LARGER:
            with self.subTest(name):
                command = [sys.executable, "-c", script, name]
                child = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
                self.assertEqual(child.stdout.strip(), run(LARGER[name]).state_hash().hex())

    def test_it_is_the_training_that_a_cpu_does(self) -> None:
        for name, spec in SPECS.items():
            with self.subTest(name):
                there, here = run(spec, 1).update(), run(spec, 1, "cpu").update()
                off = np.linalg.norm(there - here) / np.linalg.norm(here)
                print(f"{name}: CUDA is {off:.2e} of the update from the CPU")
                self.assertLess(off, 0.02)

    def test_fp32_is_not_tf32(self) -> None:
        run(SPECS["mlp"], 0)  # sets the mode
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
        exact = a.double() @ b.double()
        off = (a.cuda() @ b.cuda()).cpu().double() - exact
        self.assertLess(float(off.norm() / exact.norm()), 2e-6)  # TF32 keeps 11 bits: 3e-4

    def test_a_batch_in_pieces_needs_less_memory(self) -> None:
        spec = replace(LARGER["learned"], batch=128)
        most = {}
        for pieces in (None, 8):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            run(replace(spec, micro_batch=pieces), 1)
            most[pieces] = torch.cuda.max_memory_allocated()
        print(f"peak memory: {most[None] / 2**20:.0f} MiB whole, {most[8] / 2**20:.0f} MiB in pieces of 8")
        self.assertLess(most[8], most[None] / 4)


if __name__ == "__main__":
    unittest.main()
