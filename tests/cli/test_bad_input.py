"""Bad input is refused before anything is asked or locked: one line with field, value and fix, exit code 2."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

GOOD: dict[str, Any] = {
    "version": 1,
    "data": {"uri": "rows.csv", "format": "csv", "label": "y", "holdout": 0.2},
    "task": "classification",
    "model": {"kind": "mlp", "hidden": [8], "activation": "relu"},
    "train": {"samples": 100, "batch": 10, "lr": 0.01, "seed": 0, "precision": "fp32"},
    "contributors": {"max": 2, "allow": []},
    "budget": "1",
    "deadline": "2035-01-01T00:00:00Z",
}


TINY_GPT2: dict[str, Any] = {
    "kind": "huggingface",
    "config": {"model_type": "gpt2", "vocab_size": 256, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2},
}


class Absent:
    def __repr__(self) -> str:  # names the tests alike in every test process
        return "absent"


ABSENT = Absent()


BAD = [
    ("surprise", 1, "surprise = 1"),
    ("version", 2, "version = 2"),
    ("data.uri", ABSENT, "data.uri = '(absent)'"),
    ("data.label", ABSENT, "data.label = '(absent)'"),
    ("data.format", "xlsx", "data.format = 'xlsx'"),
    ("data.holdout", 0.95, "data.holdout = 0.95"),
    ("data.uri", "file:///etc/passwd", "data.uri = 'file:///etc/passwd'"),
    ("data.uri", "http://169.254.169.254/latest", "data.uri"),
    ("data.uri", "https://169.254.169.254/latest", "data.uri"),
    ("data.uri", "https://127.0.0.1/x.csv", "data.uri"),
    ("data.uri", "zip::file:///tmp/x.zip", "data.uri"),
    ("data.uri", "https://me:hunter2@example.org/x.csv", "data.uri"),
    ("data.uri", "missing.csv", "data.uri = 'missing.csv'"),
    ("task", "clustering", "task = 'clustering'"),
    ("model.kind", "pickle", "model.kind = 'pickle'"),
    ("model.kind", ABSENT, "model.kind = '(absent)'"),
    ("model", {"kind": "cnn"}, "model.input = '(absent)'"),
    ("model.hidden", [100_000], "model.hidden[0] = 100000"),
    ("model", {"kind": "sequential", "layers": [{"type": "linear"}]}, "model.layers[0].out = '(absent)'"),
    ("model", {"kind": "sequential", "layers": [{"type": "exec"}]}, "model.layers[0].type = 'exec'"),
    ("model", {"kind": "sequential", "layers": [{"type": "relu", "p": 1}]}, "model.layers[0].p = 1"),
    ("model", {"kind": "sequential", "layers": [{"type": "max_pool"}]}, "model.layers[0] = {'type': 'max_pool'}"),
    ("model", {"kind": "cnn", "input": [1, 8, 8], "channels": [1, 1, 1, 1]}, "model.channels = [1, 1, 1, 1]"),
    ("model", {"kind": "transformer"}, "model.kind = 'transformer': does next_token, not classification"),
    ("model.hidden", [8] * 17, "model.hidden"),
    ("model", {"kind": "huggingface", "config": {"model_type": "bloom"}}, "model.config.model_type = 'bloom'"),
    ("model", TINY_GPT2 | {"config": TINY_GPT2["config"] | {"auto_map": {"a": "b"}}}, "model.config.auto_map"),
    ("model", TINY_GPT2 | {"config": TINY_GPT2["config"] | {"n_layer": 65}}, "model.config.n_layer = 65"),
    ("model", TINY_GPT2 | {"lora": {"targets": ["all"]}}, "model.lora.targets = ['all']"),
    ("model", TINY_GPT2 | {"lora": {"rank": 0}}, "model.lora.rank = 0"),
    ("model", TINY_GPT2 | {"lora": {"rank": 2}}, "model.weights must name the base"),
    ("model", TINY_GPT2 | {"weights": {"uri": "x", "sha256": "0"}}, "model.weights.sha256 = '0'"),
    ("train.samples", 0, "train.samples = 0"),
    ("train.samples", "many", "train.samples = 'many'"),
    ("train.batch", 70_000, "train.batch = 70000"),
    ("train.lr", -1, "train.lr = -1"),
    ("train.precision", "fp16", "train.precision = 'fp16'"),
    ("train.micro_batch", 0, "train.micro_batch"),
    ("train.initial", {"uri": "rows.csv"}, "train.initial.sha256 = '(absent)'"),
    ("train.initial", {"uri": "rows.csv", "sha256": "00"}, "train.initial.sha256 = '00'"),
    ("train.initial", {"uri": "file:///etc/passwd", "sha256": "0" * 64}, "train.initial.uri = 'file:///etc/passwd'"),
    ("contributors.max", 65, "contributors.max = 65"),
    ("budget", 5, "budget = 5"),
    ("budget", "1e3", "budget = '1e3'"),
    ("budget", "-1", "budget = '-1'"),
    ("deadline", "2020-01-01T00:00:00Z", "deadline = '2020-01-01T00:00:00+00:00': is in the past"),
    ("deadline", "2035-01-01T00:00:00", "deadline"),
    ("deadline", "soon", "deadline = 'soon'"),
]


def changed(path: str, value: object) -> dict[str, Any]:
    job = deepcopy(GOOD)
    *parents, last = path.split(".")
    place = job
    for name in parents:
        place = place[name]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return job


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text("a,b,y\n1,2,x\n3,4,z\n")
    return tmp_path


@pytest.mark.parametrize(("path", "value", "shown"), BAD, ids=[f"{path}={value!r}"[:60] for path, value, _ in BAD])
def test_submit_refuses(cli: Cli, folder: Path, path: str, value: object, shown: str) -> None:
    (folder / "job.json").write_text(json.dumps(changed(path, value)))
    answer = cli("submit", "job.json")
    assert answer.code == 2, answer.err
    assert answer.out == ""
    assert len(answer.err.strip().splitlines()) == 1
    assert shown in answer.err
    assert "Fix: " in answer.err
    assert "hunter2" not in answer.err

    error = cli("submit", "job.json", "--json").document["error"]
    assert error["exit_code"] == 2
    assert path.startswith(error["field"].removesuffix("[0]")) or error["field"].startswith(path)
    assert error["fix"]


def test_a_good_job_gets_as_far_as_prefect(cli: Cli, folder: Path) -> None:
    (folder / "job.json").write_text(json.dumps(GOOD))
    answer = cli("submit", "job.json")
    assert answer.code == 3
    assert "Prefect does not answer" in answer.err
    assert "cloudlinkup up" in answer.err


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b'"text"', b"\xff\xfe\x00", b"7"])
def test_submit_refuses_what_is_no_job(cli: Cli, folder: Path, content: bytes) -> None:
    (folder / "job.json").write_bytes(content)
    answer = cli("submit", "job.json")
    assert (answer.code, answer.out) == (2, "")
    assert "Fix: " in answer.err


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("submit",),
        ("submit", "nope.json"),
        ("submit", "job.json", "--nope"),
        ("submit", "job.json", "--request-id", "seven"),
        ("submit", "job.json", "--for", "fun"),
        ("up", "--port-base", "many"),
        ("status", "nope"),
        ("watch", "nope"),
        ("download", "nope"),
        ("init", "nope.csv", "--label", "y"),
        ("init", "rows.csv", "--label", "nope"),
        ("predict", "nope", "rows.csv"),
        ("contribute", "--share", "2"),
        ("contribute", "--share", "0"),
    ],
    ids=" ".join,
)
def test_bad_words_are_refused(cli: Cli, folder: Path, words: tuple[str, ...]) -> None:
    (folder / "job.json").write_text(json.dumps(GOOD))
    answer = cli(*words)
    assert answer.code == 2, answer.err
    assert answer.out == ""
    assert "Fix: " in answer.err
    document = cli(*words, "--json").document
    assert document["error"]["exit_code"] == 2
