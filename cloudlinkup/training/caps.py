"""What a job's network may have at most: the client's form (`model_spec.py`) and every check of a training spec
(`networks/`) use these. Plain numbers, so that the command line need not import numpy for them.
"""

from __future__ import annotations

HIDDEN = 16  # layers of an mlp
WIDTH = 8_192  # of a linear layer, or channels
LAYERS = 128  # of a sequential network, nested ones counted
NESTED = 4  # residuals within residuals
KERNEL = 31  # of a convolution, along each side
STRIDE = 8
POOL = 64  # side of a pooling window
HEADS = 64
BLOCKS = 64  # of a transformer
CONTEXT = 4_096  # tokens of a language model's window
INPUTS = 100_000
OUTPUTS = 65_536  # classes or targets
VOCABULARY = 262_144
RANK = 256  # of adapters
PARAMETERS = 50_000_000  # that are trained
BATCH = 65_536
ACTIVATIONS = 2**29  # numbers that a pass keeps for one row: 2 GiB in fp32
PASS = 2 * 2**30  # bytes of one pass above which a batch is taken in pieces, where the job says "auto"
