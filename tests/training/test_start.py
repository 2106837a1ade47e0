"""Initial weights out of a file: exactly this network's, or refused before anything of its size is made."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from cloudlinkup.training import frozen
from cloudlinkup.training.architectures import initial_weights, layout
from cloudlinkup.training.start import begin_with, start_from
from tests.training.specs import SPECS


def named(spec, flat: np.ndarray) -> dict[str, np.ndarray]:
    found, start = {}, 0
    for tensor in layout(spec):
        found[tensor.name] = flat[start : start + tensor.size].reshape(tensor.shape)
        start += tensor.size
    return found


@pytest.mark.parametrize("name", SPECS)
def test_a_flat_tensor_and_named_ones_are_the_same_start(name: str, tmp_path):
    spec = SPECS[name]
    flat = initial_weights(spec) * np.float32(3)
    save_file({"weights": flat}, tmp_path / "flat.safetensors")
    save_file(named(spec, flat), tmp_path / "named.safetensors")
    for file in ("flat", "named"):
        np.testing.assert_array_equal(start_from(tmp_path / f"{file}.safetensors", spec), flat)
    np.testing.assert_array_equal(begin_with(spec, tmp_path / "none.safetensors"), initial_weights(spec))


def test_half_precision_is_widened(tmp_path):
    spec = SPECS["cnn"]
    half = {name: tensor.astype(np.float16) for name, tensor in named(spec, initial_weights(spec)).items()}
    save_file(half, tmp_path / "half.safetensors")
    found = start_from(tmp_path / "half.safetensors", spec)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, initial_weights(spec).astype(np.float16).astype(np.float32))


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    spec, path = SPECS["mlp"], tmp_path / "bad.safetensors"
    flat = initial_weights(spec)
    tensors = named(spec, flat)
    last = list(tensors)[-1]
    bad = {
        "shape": {"weights": flat[:-1]},
        "has no tensor": {name: tensor for name, tensor in tensors.items() if name != last},
        "which the config does not have": {**tensors, "9.weight": flat[:3]},
        "has shape": {**tensors, last: tensors[last][None]},
        "only F32, F16, BF16": {"weights": flat.astype(np.float64)},
    }
    for problem, content in bad.items():
        save_file(content, path)
        with pytest.raises(ValueError, match=problem):
            start_from(path, spec)
    for value in (np.nan, np.inf):
        save_file({"weights": np.where(np.arange(len(flat)) == 7, value, flat).astype(np.float32)}, path)
        with pytest.raises(ValueError, match="finite"):
            start_from(path, spec)
    path.write_bytes(b"\0" * 64)
    with pytest.raises(ValueError):
        start_from(path, spec)
    monkeypatch.setattr(frozen, "MAX_HEADER", 100)
    path.write_bytes(bytes(8 * 4 * len(flat) + 4_000))
    with pytest.raises(ValueError, match="larger than this network's"):
        start_from(path, spec)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300), length=st.none() | st.integers(0, 2**64 - 1))
def test_any_bytes_are_refused(data: bytes, length: int | None, tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "x.safetensors"
    path.write_bytes((b"" if length is None else length.to_bytes(8, "little")) + data)
    with pytest.raises(ValueError):
        start_from(path, SPECS["mlp"])
