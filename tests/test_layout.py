"""The house's own rules: who may import whom, no file too long, every module says what it is for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("cloudlinkup", "models", "tasks", "flows", "services", "deployments")
MAY_IMPORT = {
    "cloudlinkup": set(),
    "models": {"cloudlinkup"},
    "tasks": {"cloudlinkup", "models"},
    "flows": {"cloudlinkup", "models", "tasks"},
    "services": {"cloudlinkup", "models"},
    "deployments": {"cloudlinkup"},
}
HEAVY = {"prefect", "xgboost", "pandera", "anchorpy", "distributed", "dask"}
HEAVY_ALLOWED = {  # folder or file of the library: which of the heavy packages it may name
    "cloudlinkup/ledger/program.py": {"anchorpy"},
    "cloudlinkup/cluster/": {"distributed", "dask"},
}
PURE = {"torch", "numpy", "safetensors"}  # what training and verification are made of, beside the standard library
PURE_ALLOWED = {  # of the optional extra, imported where a network is built
    "cloudlinkup/training/networks/huggingface.py": {"transformers", "peft"},
    "cloudlinkup/training/networks/narrow.py": {"transformers"},
}
PURE_OURS = {"cloudlinkup.errors", "cloudlinkup.wire.hashes", "cloudlinkup.training", "cloudlinkup.verify"}
LONGEST, LONGEST_TEST = 450, 500  # lines


def modules(room: str) -> list[Path]:
    return sorted(path for path in (ROOT / room).rglob("*.py") if "__pycache__" not in path.parts)


def imported(path: Path) -> set[str]:
    """Every dotted name that a file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", [room for room in ROOMS if (ROOT / room).is_dir()])
def test_imports_go_one_way(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room}
    for path in modules(room):
        rooms = {name.partition(".")[0] for name in imported(path)} & {*ROOMS, "tests", "benchmarks", "examples"}
        assert rooms <= allowed, f"{path.relative_to(ROOT)} imports {rooms - allowed}"


def test_the_library_needs_nothing_heavy() -> None:
    for path in modules("cloudlinkup"):
        name = str(path.relative_to(ROOT))
        allowed = {package for prefix, some in HEAVY_ALLOWED.items() if name.startswith(prefix) for package in some}
        found = {module.partition(".")[0] for module in imported(path)} & HEAVY
        assert found <= allowed, f"{name} imports {found - allowed}"


@pytest.mark.parametrize("folder", ["training", "verify"])
def test_training_and_verification_stay_pure(folder: str) -> None:
    import sys

    for path in modules(f"cloudlinkup/{folder}"):
        for name in imported(path):
            top = name.partition(".")[0]
            ours = any(name == prefix or name.startswith(prefix + ".") for prefix in PURE_OURS)
            group = name in ("cloudlinkup.wire", "cloudlinkup")
            extra = PURE_ALLOWED.get(str(path.relative_to(ROOT)), set())
            fine = ours or group or top in PURE | extra or top in sys.stdlib_module_names
            assert fine, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("room", [*ROOMS, "benchmarks", "examples", "tests"])
def test_files_are_short_and_say_what_they_are_for(room: str) -> None:
    for path in modules(room):
        text = path.read_text()
        most = LONGEST_TEST if room == "tests" else LONGEST
        assert text.count("\n") <= most, f"{path.relative_to(ROOT)} has {text.count(chr(10))} lines"
        if room != "tests" and text.strip():
            assert ast.get_docstring(ast.parse(text)), f"{path.relative_to(ROOT)} has no docstring"


def test_there_is_no_folder_for_odds_and_ends() -> None:
    names = {path.stem for room in ROOMS for path in modules(room)}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc"}
