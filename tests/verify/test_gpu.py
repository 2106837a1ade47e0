"""The audit on CUDA: an honest shard of every kind of network is accepted bit for bit, and one other row is found.

See tests/training/test_gpu.py for how to run it on a bare machine.
"""

from __future__ import annotations

import hashlib
import unittest
from dataclasses import replace
from itertools import product

import numpy as np

from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.quantize import quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.verify import merkle
from cloudlinkup.verify.replay import Case, Claim, replay, shard_leaves
from tests.training.specs import LARGER, rows_for
from tests.training.test_gpu import CUDA, WHY, WORK, gpu

ORDER, WALLET = b"o" * 32, b"w" * 32


def committed(spec: TrainingSpec, rows: tuple[np.ndarray, np.ndarray]) -> tuple[Case, list[bytes]]:
    """The case of a contributor that trained these rows on CUDA, and its states."""
    runner = SegmentRunner(spec, WORK, initial_weights(spec), *rows, device="cuda")
    states = [runner.state_bytes()]
    while runner.run_segment():
        states.append(runner.state_bytes())
    upload = quantise(runner.update())
    hashed = hashlib.sha256(upload).digest()
    hashes = [hashlib.sha256(state).digest() for state in states[1:]]
    leaves = tuple(shard_leaves(ORDER, WALLET, WORK.segment_steps, hashes, hashed))
    claim = Claim(ORDER, WALLET, merkle.root(leaves), WORK.max_segments, hashed, leaves)
    drawn = frozenset({1, WORK.max_segments})
    return Case(spec, WORK, initial_weights(spec), *rows, claim, drawn, upload), states


@gpu
@unittest.skipUnless(CUDA, WHY)
class CudaAudit(unittest.TestCase):
    def test_an_honest_shard_is_accepted(self) -> None:
        for name, precision in product(LARGER, ("fp32", "bf16")):
            with self.subTest(name, precision=precision):
                spec = replace(LARGER[name], precision=precision)
                case, states = committed(spec, rows_for(spec, 400))
                self.assertTrue(replay(case, device="cuda").accepted)
                last = WORK.max_segments
                opened = replace(case, drawn=frozenset({last}), before_states={last: states[last - 1]})
                self.assertTrue(replay(opened, device="cuda").accepted)

    def test_one_other_row_is_found(self) -> None:
        for name in LARGER:
            with self.subTest(name):
                spec = LARGER[name]
                features, targets = rows_for(spec, 400)
                case, _ = committed(spec, (features, targets))
                changed = targets.copy()
                changed[: spec.batch] = (changed[: spec.batch] + 1) % spec.outputs
                self.assertFalse(replay(replace(case, targets=changed), device="cuda").accepted)


if __name__ == "__main__":
    unittest.main()
