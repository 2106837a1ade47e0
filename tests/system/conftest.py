"""One site for the folder: the session's local stack and some contributors beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudlinkup.home import Home
from tests.conftest import LocalStack
from tests.system.site import Site


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The contributors' home."""
    return Home(tmp_path_factory.mktemp("machines"))


@pytest.fixture(scope="session")
def site(local_stack: LocalStack, machines: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The stack with contributors `one`, `two` and `lazy`; a test starts others by name."""
    local_stack.up()
    site = Site(local_stack, machines, tmp_path_factory.mktemp("jobs"))
    try:
        site.start("one", "two", "lazy")
        yield site
    finally:
        for machine in site.all.values():
            if machine.process is not None and machine.process.poll() is None:
                machine.kill()
