import threading
from pathlib import Path

import numpy as np
import pytest

from cloudlinkup.agent.files import OrderFolder
from cloudlinkup.agent.states import StateWriter
from cloudlinkup.training.states import hash_state, start_state


def folder(root: Path, order: str = "a") -> OrderFolder:
    place = root / "orders" / order
    place.mkdir(parents=True)
    return OrderFolder(place)


def test_states_are_hashed_and_stored_in_order(tmp_path: Path) -> None:
    place = folder(tmp_path)
    with StateWriter(place) as writer:
        assert writer.last() is None
        for at in range(4):
            state = start_state(np.full(80, at, np.float32), None)
            writer.put(at, state)
            stored = writer.last()
            assert stored is not None and writer.last() is None
            assert (stored.at, stored.hash) == (at, hash_state(state))
            assert place.state(at) == state


def test_leaving_waits_for_what_is_under_way(tmp_path: Path) -> None:
    class Slow(OrderFolder):
        def save_state(self, at: int, state: bytes) -> None:
            assert go.wait(10)
            super().save_state(at, state)

    go = threading.Event()
    place = Slow(folder(tmp_path).path)
    with StateWriter(place) as writer:
        writer.put(1, b"state")
        with pytest.raises(RuntimeError, match="still"):
            writer.put(2, b"state")
        assert place.state(1) is None
        go.set()
    assert place.state(1) == b"state"


def test_a_full_disk_is_heard_of(tmp_path: Path) -> None:
    class Full(OrderFolder):
        def save_state(self, at: int, state: bytes) -> None:
            raise OSError(28, "No space left on device")

    with StateWriter(Full(folder(tmp_path).path)) as writer:
        writer.put(1, b"state")
        with pytest.raises(OSError, match="space"):
            writer.last()


@pytest.mark.parametrize("size", [3, 10, 40])
def test_a_state_written_over_an_old_one_is_exactly_itself(tmp_path: Path, size: int) -> None:
    old, new = folder(tmp_path, "old"), folder(tmp_path, "new")
    for at in range(3):
        old.save_state(at, b"0123456789")
    old.forget_states()
    assert all(old.state(at) is None for at in range(3))
    for at in range(5):  # more than there are spares
        new.save_state(at, bytes([at]) * size)
    assert [new.state(at) for at in range(5)] == [bytes([at]) * size for at in range(5)]
    assert sorted(p.name for p in new.path.iterdir()) == [f"state-{at}" for at in range(5)]
    assert not list((tmp_path / "spares").iterdir())
    assert all((new.path / f"state-{at}").stat().st_mode & 0o777 == 0o600 for at in range(5))


def test_spares_never_pile_up_beyond_the_longest_round(tmp_path: Path) -> None:
    for number, states in enumerate([5, 2, 4, 1]):
        place = folder(tmp_path, str(number))
        for at in range(states):
            place.save_state(at, b"state")
        place.forget_states()
    assert len(list((tmp_path / "spares").iterdir())) == 5
