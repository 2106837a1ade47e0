"""A fresh chain for every test; its books are checked when the test is over."""

from collections.abc import Iterator

import pytest

from tests.programs.world import World


@pytest.fixture
def world() -> Iterator[World]:
    made = World().open()
    yield made
    made.check()
