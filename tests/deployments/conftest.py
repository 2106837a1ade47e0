"""A local stack that a test may start and kill as it likes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlinkup.home import Home
from tests.conftest import LocalStack, free_base


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[LocalStack]:
    """Not started."""
    stack = LocalStack(Home(tmp_path / "home"), free_base())
    yield stack
    stack.down()
