"""Training and verification need torch, numpy and safetensors alone: a process that can import nothing else does."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = '''
import re, sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

def needs(name, found):
    """What the package brings along: its own requirements, without extras."""
    try:
        told = distribution(name).requires or []
    except PackageNotFoundError:
        return
    if name in found:
        return
    found.add(name)
    for line in told:
        if "extra ==" not in line:
            needs(re.match("[A-Za-z0-9_.-]+", line)[0].lower().replace("_", "-"), found)

brought = set()
for package in ("torch", "numpy", "safetensors"):
    needs(package, brought)
owners = packages_distributions()
allowed = {top for top, of in owners.items() if {o.lower().replace("_", "-") for o in of} & brought}
allowed |= sys.stdlib_module_names | {"cloudlinkup", "tests"}

class Only:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"{name} is not on a bare machine", name=name)

sys.meta_path.insert(0, Only())
for name in ("pydantic", "pandas", "solders", "hypothesis", "transformers"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"the hook let {name} through")

import pkgutil
import cloudlinkup.training, cloudlinkup.verify
for package in (cloudlinkup.training, cloudlinkup.verify):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        __import__(module.name)

import tests.training.test_gpu, tests.verify.test_gpu
from tests.training.test_gpu import run
from tests.training.specs import SPECS
for spec in SPECS.values():
    assert run(spec, 1, "cpu").state_hash() == run(spec, 1, "cpu").state_hash()
print("bare")
'''


def test_a_bare_machine_trains_and_verifies():
    command = [sys.executable, "-c", SCRIPT]
    child = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=ROOT)
    assert child.returncode == 0 and child.stdout.strip() == "bare", child.stderr[-2_000:]
