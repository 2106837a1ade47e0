"""An operator's own machine, joined as a plain Dask worker, trains a whole job."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cloudlinkup.crypto.identity import read_key
from tests.conftest import ROOT
from tests.system.site import wait_for

if TYPE_CHECKING:
    from tests.system.site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

NAME = "direct-test"


@pytest.fixture
def worker(site: Site, tmp_path: Path) -> Iterator[str]:
    """The wallet of a direct worker that runs beside the stack."""
    dask = Path(sys.executable).with_name("dask")
    words = ["worker", site.settings.scheduler, "--preload", "cloudlinkup.cluster.direct", "--no-nanny"]
    words += ["--nthreads", "4", "--resources", "CPU=1", "--no-dashboard", "--local-directory", str(tmp_path)]
    env = site.stack.env | {"CLOUDLINKUP_CONTRIBUTOR": NAME, "PYTHONPATH": str(ROOT)}
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen([str(dask), *words], cwd=ROOT, env=env, stdout=output, stderr=output)
    try:
        wait_for(lambda: "Registered to" in log.read_text() or None, f"the worker did not register: {log}", 120)
        yield str(read_key(site.stack.home.contributor(NAME) / "wallet.json").pubkey())
    finally:
        process.terminate()
        process.wait(30)


def test_a_job_on_a_direct_worker(site: Site, worker: str) -> None:
    receipt = site.submit(site.job([worker], samples=4_800)).receipt()
    (line,) = receipt["contributors"]
    assert (line["wallet"], line["state"], line["rejected"]) == (worker, "active", 0)
    assert int(line["paid"]) == int(receipt["paid"]) > 0
    assert receipt["settled"]
    assert min(receipt["bytes_up"], receipt["bytes_down"]) > 0
