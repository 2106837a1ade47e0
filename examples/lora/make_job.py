"""A fine-tuning job to try, or one for a model of your own. Nothing is downloaded.

    python examples/lora/make_job.py                                   # a tiny base with this project's README as text
    python examples/lora/make_job.py --base MODEL-FOLDER --text FILE   # your own model and text

Without `--base` it makes one: a Qwen2 of 0.8 million parameters over bytes, with random weights, that is then trained
for a minute or two on this project's documentation, so that there is something to adapt. The text is the README. With
`--base`, the folder holds config.json, model.safetensors and, for a tokenizer, tokenizer.json, as
`save_pretrained` of the transformers library writes them.

It writes job.json into `--out` (by default lora-example), and what it made beside it. Then: `cloudlinkup up`,
`cloudlinkup contribute` in another terminal or two, `cloudlinkup submit lora-example/job.json --watch`.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from cloudlinkup.training.architectures import initial_weights, layout
from cloudlinkup.training.frozen import file_hash
from cloudlinkup.training.networks.huggingface_config import canonical, usual_targets
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.types import parse_job

ROOT = Path(__file__).resolve().parent.parent.parent
CONTEXT, BATCH = 64, 16
CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}


def make_base(folder: Path, steps: int, seed: int, given: dict[str, Any] = CONFIG, text: bytes | None = None) -> None:
    """config.json and model.safetensors of the tiny model, trained for `steps` on the documentation's bytes, or on
    another text's."""
    folder.mkdir(parents=True, exist_ok=True)
    config = canonical(given)
    spec = TrainingSpec(
        task="next_token",
        model={"kind": "huggingface", "config": config, "lora": None},
        inputs=CONTEXT,
        outputs=config["vocab_size"],
        batch=BATCH,
        lr=0.003,
        seed=seed,
    )
    flat = initial_weights(spec)
    if steps:
        text = text or b"\n".join(path.read_bytes() for path in sorted((ROOT / "docs").glob("*.md")))
        tokens = np.frombuffer(text, np.uint8).astype(np.int32)
        rows = (len(tokens) - 1) // CONTEXT
        x, y = (tokens[i : i + rows * CONTEXT].reshape(rows, CONTEXT) for i in (0, 1))
        work = ShardWork(b"base" * 8, 10, max(1, steps // 10), 0, 1_000_000)
        runner = SegmentRunner(spec, work, flat, np.ascontiguousarray(x), np.ascontiguousarray(y))
        while runner.run_segment():
            print(f"\rtraining the base: {10 * runner.segment} of {steps} steps", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        flat = runner.weights()
    start, tensors = 0, {}
    for tensor in layout(spec):
        tensors[tensor.name] = flat[start : start + tensor.size].reshape(tensor.shape).copy()
        start += tensor.size
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(given, indent=2) + "\n")


def make_job(base: Path, text: Path, *, rank: int, samples: int, context: int) -> dict[str, Any]:
    """The job that adapts the base in a folder to a text."""
    config = canonical(json.loads((base / "config.json").read_text()))
    weights, tokenizer = base / "model.safetensors", base / "tokenizer.json"
    data: dict[str, Any] = {"uri": text.resolve().as_uri(), "format": "text", "holdout": 0.1, "context": context}
    if tokenizer.exists():
        data["tokenizer"] = {"uri": tokenizer.resolve().as_uri(), "sha256": file_hash(tokenizer)}
    deadline = datetime.now(UTC) + timedelta(hours=6)
    return {
        "version": 1,
        "data": data,
        "task": "next_token",
        "model": {
            "kind": "huggingface",
            "config": config,
            "lora": {"rank": rank, "alpha": 2 * rank, "targets": list(usual_targets(config))},
            "weights": {"uri": weights.resolve().as_uri(), "sha256": file_hash(weights)},
        },
        "train": {"samples": samples, "batch": BATCH, "lr": 0.003, "seed": 0},
        "contributors": {"max": 2, "allow": []},
        "budget": "10",
        "deadline": deadline.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("lora-example"))
    parser.add_argument("--base", type=Path, help="a model's folder; by default one is made")
    parser.add_argument("--text", type=Path, default=ROOT / "README.md")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--samples", type=int, default=9_600, help="windows that are trained on in all")
    parser.add_argument("--context", type=int, default=CONTEXT, help="tokens of a window")
    parser.add_argument("--base-steps", type=int, default=500, help="that the base is trained for, where it is made")
    told = parser.parse_args()
    base = told.base or told.out / "base"
    if told.base is None:
        make_base(base, told.base_steps, seed=0)
    told.out.mkdir(parents=True, exist_ok=True)
    job = make_job(base, told.text, rank=told.rank, samples=told.samples, context=told.context)
    parse_job(job)
    (told.out / "job.json").write_text(json.dumps(job, indent=2) + "\n")
    print(f"{told.out / 'job.json'} adapts {base} to {told.text}")


if __name__ == "__main__":
    main()
