"""Hardware facts and probes: within the budget, plausible, kept for exactly this hardware."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from cloudlinkup.agent.hardware import choose_device, describe
from cloudlinkup.agent.probes import cached, measure, measure_networks, measure_or_cached
from cloudlinkup.errors import BadInput


def test_hardware_names_what_replay_depends_on() -> None:
    one, two = describe("cpu", 1), describe("cpu", 2)
    assert one.device_class != two.device_class
    for fact in (torch.__version__, torch.backends.cpu.get_cpu_capability(), "threads 1"):
        assert str(fact) in one.device_class
    assert one.memory > 2**28
    assert one.name.strip()


def test_devices() -> None:
    assert choose_device("cpu") == "cpu"
    with pytest.raises(BadInput):
        choose_device("tpu")
    for unknown in ("cuda:", "cuda:-1", "cuda:x", "cuda:100", "cpu:0", ""):
        with pytest.raises(BadInput, match="unknown"):
            choose_device(unknown)
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(BadInput, match="CUDA device"):
        choose_device(absent)
    if not torch.cuda.is_available():
        assert choose_device("auto") == "cpu"
        with pytest.raises(BadInput, match="CUDA"):
            choose_device("cuda")


def test_probes_stay_in_their_budget_and_are_kept(tmp_path: Path) -> None:
    hardware, place = describe("cpu", 1), tmp_path / "probes.json"
    assert cached(place, hardware) is None
    torch.randn(8, 8).matmul(torch.randn(8, 8))  # torch's own start is not a probe's cost
    begun = time.process_time()
    probes = measure_or_cached(place, hardware)
    assert time.process_time() - begun <= 3.0
    assert [p.name for p in probes] == ["matmul", "elementwise", "mlp_step"]
    assert all(1e-6 < p.seconds < 1 and p.spread >= 0 and p.precision == "fp32" for p in probes)
    begun = time.process_time()
    assert measure_or_cached(place, hardware) == probes
    assert time.process_time() - begun < 0.1
    assert cached(place, hardware.model_copy(update={"threads": 2})) is None
    place.write_text(place.read_text().replace("matmul", "m" * 300))
    assert cached(place, hardware) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_probes() -> None:
    begun = time.monotonic()
    probes = measure(describe("cuda", 1))
    assert time.monotonic() - begun < 30
    assert {(p.name, p.precision) for p in probes} == {
        (name, precision) for name in ("mlp", "cnn", "attention") for precision in ("fp32", "fp16")
    }


def test_the_networks_of_gpus_run_in_both_precisions() -> None:
    """The very code that a GPU runs, on this CPU at a sixteenth of the size."""
    probes = measure_networks("cpu", 0.3, scale=16)
    expected = [(name, precision) for name in ("mlp", "cnn", "attention") for precision in ("fp32", "fp16")]
    assert [(p.name, p.precision) for p in probes] == expected
    assert all(p.seconds > 0 and p.spread >= 0 for p in probes)
