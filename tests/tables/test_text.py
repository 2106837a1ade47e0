"""Text to tokens and windows: what is read, what is held out, what is refused, and what travels."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlinkup.errors import BadInput
from cloudlinkup.tables.prepared import Prepared
from cloudlinkup.tables.read import read_tokenizer
from cloudlinkup.tables.text import TextRecipe, read_text
from cloudlinkup.tables.windows import prepare_text, stretches
from cloudlinkup.training.data import join_windows, pack_partition, shard_rows, unpack_partition, unpacked_size
from cloudlinkup.types import TokenizerSpec
from tests.bigram import bigram, text_job

__all__ = ["bigram"]
CANARY = "canary-7310"
WORDS = ["river", "stone", "über", "light", "tree\n", "cloud", "日本", "go", "wind", "\n"]


def prose(words: int, seed: int = 0) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text(prose(2_000))
    return path


@settings(deadline=None)
@given(st.text(), st.integers(1, 40))
def test_a_text_is_read_whole_whatever_the_pieces(tmp_path_factory, text, piece):
    path = tmp_path_factory.mktemp("text") / "t.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert "".join(read_text(path, "t.txt", max(piece, 3))) == text
    recipe = TextRecipe(context=4)
    assert recipe.decode(recipe.encode(text)) == text
    assert (recipe.encode(text) < recipe.vocabulary).all()


@pytest.mark.parametrize("piece", [3, 7, 64, 10_000])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("bad", [b"\xff", b"\xe6\x97", b"\xc3("])
def test_what_is_not_utf8_is_named_by_place_alone(tmp_path, piece, mark, bad):
    before = mark + f"one\n{CANARY} ü\nthree ".encode()
    (tmp_path / "t.txt").write_bytes(before + bad + b"" if bad == b"\xe6\x97" else before + bad + b"\nmore\n" * 9)
    with pytest.raises(BadInput) as caught:
        list(read_text(tmp_path / "t.txt", "t.txt", piece))
    assert caught.value.field == "data.uri"
    assert f"byte {len(before)}, line 3" in str(caught.value)
    assert CANARY not in str(caught.value)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 30_000), st.integers(1, 64), st.floats(0.01, 0.89), st.integers(0, 9))
def test_stretches_cover_the_text_once(count, context, holdout, seed):
    job = text_job(context=context, data={"holdout": holdout}, train={"seed": seed})
    try:
        train, held = stretches(count, context, job)
    except BadInput as error:
        assert error.field in ("data.uri", "data.holdout")
        return
    runs = sorted([*train, *held])
    assert runs[0][0] == 0 and runs[-1][1] == count
    assert all(one[1] == two[0] for one, two in itertools.pairwise(runs))
    assert all(end - start > context for start, end in runs)  # each has a window
    assert stretches(count, context, job) == (train, held)


def test_windows_are_the_text_and_none_reaches_into_the_hold_out(bigram, notes, tmp_path):
    job = text_job(context=16)
    data = prepare_text(notes, job)
    text = np.frombuffer(notes.read_bytes(), np.uint8)
    train, held = stretches(len(text), 16, job)
    assert data.spec.inputs == 16 and data.spec.outputs == 256 and data.classes == ()
    assert data.features.dtype == data.targets.dtype == np.int32
    rows = []
    for start, end in train:
        for at in range(start, end - 16, 16):
            assert at + 17 <= end
            rows.append(text[at : at + 17])
    np.testing.assert_array_equal(join_windows(data.features, data.targets), np.array(rows))
    share = data.holdout_features.size / (data.features.size + data.holdout_features.size)
    assert share == pytest.approx(job.data.holdout, abs=0.02) and len(held) > 1
    inside = {at for start, end in held for at in range(start, end)}
    assert sum(end - start for start, end in train) == len(text) - len(inside)
    # in files it is the same, and so are the bytes of another run
    kept = prepare_text(notes, job, tmp_path / "rows")
    assert kept.hash == data.hash == Prepared.load(tmp_path / "rows").hash == data.save(tmp_path / "again").hash
    assert {path.name for path in (tmp_path / "rows").iterdir()} == {
        "prepared.json", "windows.npy", "holdout_windows.npy",
    }  # fmt: skip
    assert prepare_text(notes, text_job(context=16, train={"seed": 1})).hash != data.hash


def test_windows_are_shuffled_the_same_way_each_time(bigram, notes):
    data = prepare_text(notes, text_job())
    one, two = shard_rows(len(data.features), [1, 2], 7), shard_rows(len(data.features), [1, 2], 7)
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert (np.diff(one[0]) < 0).any() and sorted(np.concatenate(one)) == list(range(len(data.features)))


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"context": 3_000}, "data.uri", "too short"),
        ({"contributors": {"max": 64}, "context": 128}, "contributors.max", "too few"),
        ({"data": {"holdout": 0.001}}, "data.holdout", "to score on"),
        ({"train": {"class_weights": "balanced"}}, "train.class_weights", "no classes"),
        ({"data": {"context": 9}}, "data.context", "the model's is 8"),
    ],
)
def test_refused_by_field_and_fix(bigram, notes, changes, field, problem):
    with pytest.raises(BadInput, match=problem) as caught:
        prepare_text(notes, text_job(**changes))
    assert caught.value.field == field and caught.value.fix
    assert "river" not in str(caught.value)


def test_an_empty_text_is_refused(tmp_path):
    for text in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "empty.txt").write_bytes(text)
        with pytest.raises(BadInput, match="empty"):
            prepare_text(tmp_path / "empty.txt", text_job())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"task": "classification"}, "task"),
        ({"model": {"kind": "mlp"}}, "model.kind"),
        ({"data": {"label": "y"}}, "data.label"),
        ({"data": {"format": "csv", "label": "y"}}, "task"),
        ({"data": {"format": "csv", "label": "y", "context": 8}}, "data.context"),
        ({"data": {"tokenizer": {"uri": "t.json", "sha256": "abc"}}}, "data.tokenizer.sha256"),
        ({"metric": "auc"}, "metric"),
        ({"search": {"kind": "ensemble"}}, "search"),
    ],
)
def test_a_job_that_does_not_fit_text_is_refused_as_it_is_written(changes, field):
    with pytest.raises(BadInput) as caught:
        text_job(**changes)
    assert caught.value.field == field and caught.value.fix


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 20), st.sampled_from([2, 256, 257, 65_536]), st.integers(0, 5))
def test_a_partition_of_text_travels_once_and_small(rows, context, vocabulary, seed):
    from cloudlinkup.training.spec import TrainingSpec

    spec = TrainingSpec("next_token", {}, context, vocabulary, batch=1, lr=0.1, seed=0)
    windows = np.random.default_rng(seed).integers(0, vocabulary, (rows, context + 1)).astype(np.int32)
    packed = pack_partition(windows[:, :-1], windows[:, 1:])
    width = 1 if windows.max() < 256 else 2
    assert len(packed) <= width * windows.size + 128
    x, y = unpack_partition(packed, spec)
    assert x.dtype == y.dtype == np.int32 and x.flags.writeable and x.flags.c_contiguous
    np.testing.assert_array_equal(x, windows[:, :-1])
    np.testing.assert_array_equal(y, windows[:, 1:])
    assert x.nbytes + y.nbytes <= unpacked_size(len(packed), spec)
    assert pack_partition(x, y) == packed


def test_a_partition_of_another_shape_or_vocabulary_is_refused():
    from cloudlinkup.training.spec import TrainingSpec

    spec = TrainingSpec("next_token", {}, 4, 10, batch=1, lr=0.1, seed=0)
    windows = np.full((3, 5), 9, np.int32)
    good = pack_partition(windows[:, :-1], windows[:, 1:])
    assert len(unpack_partition(good, spec)[0]) == 3
    wide = np.full((3, 6), 9, np.int32)
    over = np.full((3, 5), 10, np.int32)
    table = pack_partition(np.zeros((3, 4), np.float32), np.zeros(3, np.int64))
    for bad in (pack_partition(wide[:, :-1], wide[:, 1:]), pack_partition(over[:, :-1], over[:, 1:]), table, good[:-1]):
        with pytest.raises(ValueError):
            unpack_partition(bad, spec)
    with pytest.raises(ValueError, match="that follow"):
        pack_partition(windows[:, :-1], windows[:, 1:] + 1)


TOKENIZER = '{"version":"1.0","model":{"type":"WordLevel","vocab":{"river":0,"stone":3},"unk_token":"stone"}}'


async def test_a_tokenizer_is_held_to_its_hash(tmp_path):
    (tmp_path / "tokenizer.json").write_text(TOKENIZER)
    uri, right = str(tmp_path / "tokenizer.json"), hashlib.sha256(TOKENIZER.encode()).hexdigest()
    assert await read_tokenizer(TokenizerSpec(uri=uri, sha256=right), (tmp_path,)) == TOKENIZER
    with pytest.raises(BadInput) as caught:
        await read_tokenizer(TokenizerSpec(uri=uri, sha256="0" * 64), (tmp_path,))
    assert caught.value.field == "data.tokenizer.sha256"
    with pytest.raises(BadInput) as caught:
        await read_tokenizer(TokenizerSpec(uri="file:///etc/passwd", sha256=right), (tmp_path,))
    assert caught.value.field == "data.tokenizer.uri"


def test_without_the_tokenizers_package_the_fix_is_told(bigram, notes, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)  # what an import of a missing package finds
    with pytest.raises(BadInput, match="pip install tokenizers") as caught:
        prepare_text(notes, text_job(), tokenizer=TOKENIZER + " ")
    assert caught.value.field == "data.tokenizer"


def test_a_tokenizer_of_the_client(bigram, notes):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator([notes.read_text()], vocab_size=300)
    recipe = TextRecipe(context=8, tokenizer=made.to_str())
    data = prepare_text(notes, text_job(), tokenizer=recipe.tokenizer)
    assert data.spec.outputs == recipe.vocabulary == 300
    assert data.features.size < len(notes.read_bytes()) / 2
    assert recipe.decode(recipe.encode(prose(50))) == prose(50)
    assert TextRecipe.model_validate_json(recipe.model_dump_json()) == recipe
    with pytest.raises(BadInput, match=r"not a tokenizer\.json"):
        TextRecipe(context=8, tokenizer='{"a": 1}').encode("river")
