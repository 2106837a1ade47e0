"""A training that begins with given weights instead of drawn ones: a safetensors file, checked before it is read.

The file holds one flat tensor `weights`, fp32 in the layout's order, or the network's tensors by the layout's names, as
a delivered job's weights.safetensors has them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cloudlinkup.training.architectures import initial_weights, layout
from cloudlinkup.training.frozen import check_finite, largest_file, open_frozen, widened
from cloudlinkup.training.spec import TrainingSpec

FLAT = "weights"


def largest_start(spec: TrainingSpec) -> int:
    """Bytes that such a file can take at most. Raises ValueError as `check_spec`."""
    return largest_file({tensor.name: tensor.shape for tensor in layout(spec)})


def start_from(path: Path, spec: TrainingSpec) -> np.ndarray:
    """The flat fp32 start. Raises ValueError for another file, other names or shapes, or values that are not finite.

    Header and shapes are checked before anything of the network's size is allocated; fp16 and bf16 are widened.
    """
    if path.stat().st_size > largest_start(spec):
        raise ValueError("the file is larger than this network's weights can be")
    tensors = layout(spec)
    named = {tensor.name: tensor.shape for tensor in tensors}
    count = sum(tensor.size for tensor in tensors)
    try:
        found = open_frozen(path, {FLAT: (count,)})
    except ValueError as error:
        if f"no tensor {FLAT}" not in str(error):
            raise
        found = open_frozen(path, named)
    check_finite(found)
    flat = np.empty(count, np.float32)
    start = 0
    for tensor in found.values():
        flat[start : start + tensor.size] = widened(tensor).reshape(-1)
        start += tensor.size
    return flat


def begin_with(spec: TrainingSpec, path: Path) -> np.ndarray:
    """The file's weights where there is one, else the spec's own. Raises ValueError as `start_from`."""
    return start_from(path, spec) if path.exists() else initial_weights(spec)
