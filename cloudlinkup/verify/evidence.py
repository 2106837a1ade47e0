"""What a rejection rests on, so that a third person can run it again: `python -m cloudlinkup.verify.evidence FOLDER`.

    result.json             the evidence document: both signed documents, what was missed and how far off it is
    order.json, commit.json the same documents as they travelled
    spec.json               the training spec (its hash stands in the order)
    weights.bin             flat fp32 published weights (theirs too)
    partition.safetensors   the contributor's rows, 0600: whoever re-runs the replay sees them
    upload.bin, leaves.bin  the quantised update; all leaves of the contributor's tree, if it showed them
    before-K.bin, after-K.bin  opened states of segment K, where the replay used them
    moments.bin             the optimizer state that the order names, where the replay began with it

Tensors that are not trained are not copied: the spec names their safetensors file by hash, and whoever re-runs the
replay gives it (`--frozen FILE`).

`recheck` trusts nothing of this but the two signatures: every file is held against the hashes that they cover, the
drawn segments against the challenge where it is told, then the replay is run. It does not ask the chain: that the
order's signer is the job's verifier, the commit's signer the wallet's delegate, and the block hash that block's, is
looked up there. Checking signatures needs solders and pydantic, which the wheel brings; nothing else in `verify` does.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from cloudlinkup.training.architectures import frozen_tensors, parameter_count
from cloudlinkup.training.data import MAX_PARTITION, pack_partition, unpack_partition
from cloudlinkup.training.frozen import file_hash, open_frozen
from cloudlinkup.training.moments import moments_size
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.quantize import encoded_size
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.training.states import state_size
from cloudlinkup.verify.challenge import draw
from cloudlinkup.verify.replay import Case, Claim, Miss, ReplayResult, replay, second_replay
from cloudlinkup.verify.tolerance import replay_within
from cloudlinkup.wire.hashes import challenge_seed, partition_hash, sha256

MAX_DOCUMENT = 2**20
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class SignedText(Protocol):
    """A signed document as it travels (`wire.messages.Signed`)."""

    @property
    def text(self) -> str: ...
    @property
    def signer(self) -> str: ...
    @property
    def signature(self) -> str: ...


def make_evidence(
    *,
    order: SignedText,
    commit: SignedText,
    result: ReplayResult,
    drawn: frozenset[int] = frozenset(),
    salt: str = "",
    challenge: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
    to_end: bool = False,
) -> dict[str, Any]:
    """The evidence document, JSON-able: what a rejected contributor receives.

    salt: hex, of the order's partition hash. challenge: secret and block_hash (hex), newcomer and small_job (bool),
    extra (int): what `draw` was told. tolerance: of work of another device class; None: compared bit for bit.
    to_end: it was replayed on to the shard's end.
    Raises ValueError for a result that missed nothing.
    """
    if result.miss is None:
        raise ValueError("accepted work needs no evidence")
    return {
        "version": 1,
        "order": _plain(order),
        "commit": _plain(commit),
        "drawn": sorted(drawn),
        "salt": salt,
        "challenge": dict(challenge) if challenge else None,
        "tolerance": tolerance,
        "to_end": to_end,
        "miss": asdict(result.miss),
        "replay": {"threads": result.threads, "segments": result.replayed, "seconds": round(result.seconds, 3)},
    }


def _plain(document: SignedText) -> dict[str, str]:
    return {"text": document.text, "signer": document.signer, "signature": document.signature}


def write_evidence(folder: Path, evidence: Mapping[str, Any], case: Case) -> None:
    """Writes the folder (0700, files 0600)."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    told = {**evidence, "drawn": sorted(case.drawn)}
    files = {
        "result.json": _json(told),
        "order.json": _json(evidence["order"]),
        "commit.json": _json(evidence["commit"]),
        "spec.json": case.spec.to_bytes(),
        "weights.bin": np.ascontiguousarray(case.published, "<f4").tobytes(),
        "partition.safetensors": pack_partition(case.features, case.targets),
    }
    if case.upload is not None:
        files["upload.bin"] = case.upload
    if case.claim.leaves:
        files["leaves.bin"] = b"".join(case.claim.leaves)
    if case.moments is not None:
        files["moments.bin"] = case.moments
    files |= {f"before-{k}.bin": state for k, state in case.before_states.items()}
    files |= {f"after-{k}.bin": state for k, state in case.after_states.items()}
    for name, data in files.items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


def _json(document: object) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


@dataclass(frozen=True)
class Recheck:
    """`confirmed`: every file is what the signatures cover, and the replay misses again. `problems`: why not."""

    confirmed: bool
    problems: tuple[str, ...]
    facts: tuple[str, ...]
    result: ReplayResult | None = None


def recheck(folder: Path, frozen: Path | None = None) -> Recheck:
    """Runs the evidence again. `frozen`: the file of what is not trained, where the spec names one.

    Raises ValueError or OSError when files are missing or are no evidence at all.
    """
    told = json.loads(_read(folder / "result.json", MAX_DOCUMENT))
    if not isinstance(told, dict) or told.get("version") != 1:
        raise ValueError("result.json is no evidence of version 1")
    order, order_hash, order_signer = _document(folder / "order.json", "Order")
    commit, _, commit_signer = _document(folder / "commit.json", "Commit")
    spec_bytes = _read(folder / "spec.json", MAX_DOCUMENT)
    spec = TrainingSpec.from_bytes(spec_bytes)
    count = parameter_count(spec)
    base = _frozen(spec, frozen)
    weights = _read(folder / "weights.bin", 4 * count)
    packed = _read(folder / "partition.safetensors", MAX_PARTITION)
    upload = _optional(folder / "upload.bin", encoded_size(count))
    leaves = _optional(folder / "leaves.bin", 32 * (commit.segments + 2)) or b""
    moments = _optional(folder / "moments.bin", moments_size(count))
    begins = getattr(order, "moments", None)  # left out of an order that begins afresh
    salt = str(told.get("salt", ""))
    features, targets = unpack_partition(packed, spec)

    problems = [
        problem
        for wrong, problem in [
            (commit.order != order_hash.hex(), "the commit is of another order"),
            (commit_signer != order.agent.partition("/")[0], "the commit is not signed by the order's agent"),
            (order.spec_hash != sha256(spec_bytes), "spec.json is not the order's spec"),
            (order.weights_hash != sha256(weights), "weights.bin are not the order's weights"),
            (
                moments is not None and begins != sha256(moments),
                "moments.bin is not the optimizer state that the order names",
            ),
            (not salt, "no salt is told: the rows cannot be held against the order"),
            (
                bool(salt) and order.partition_hash != partition_hash(bytes.fromhex(salt), packed).hex(),
                "the rows are not the order's partition",
            ),
        ]
        if wrong
    ]
    drawn = frozenset(int(k) for k in told["drawn"])
    problems += _challenge_problems(told.get("challenge"), commit, drawn)
    facts = [f"order {order_hash.hex()} signed by {order_signer}", f"root {commit.root} signed by {commit_signer}"]
    claim = Claim(
        order_hash=order_hash,
        wallet=_key(order.wallet),
        root=bytes.fromhex(commit.root),
        segments=commit.segments,
        upload_hash=bytes.fromhex(commit.upload),
        leaves=tuple(leaves[i : i + 32] for i in range(0, len(leaves), 32)),
        end=end_hash(commit),
    )
    work = ShardWork.of(order)
    if moments is not None and begins != sha256(moments):
        moments = None
    states = {kind: _states(folder, kind, state_size(count)) for kind in ("before", "after")}
    published = np.frombuffer(weights, "<f4").astype(np.float32)
    case = Case(
        spec, work, published, features, targets, claim, drawn, upload, states["before"], states["after"], moments
    )
    case = replace(case, frozen=base)
    if case.lacks_start:
        return Recheck(False, (*problems, "the optimizer state that it began with is not here"), tuple(facts))
    case = replace(case, to_end=bool(told.get("to_end")))
    if (within := told.get("tolerance")) is not None:
        facts.append(f"compared within {float(within):.3g} of a segment's movement, as of another device class")
        result = replay_within(case, float(within))
    else:
        result = replay(case)
        if not result.accepted:
            result = second_replay(case, result)
    if result.miss is None:
        problems.append("the replay agrees with the commitment: nothing was missed")
    else:
        facts.append(f"the replay misses: {json.dumps(asdict(result.miss))}")
        problems += _forgeable(result.miss, upload, claim.upload_hash)
    return Recheck(not problems, tuple(problems), tuple(facts), result)


def _frozen(spec: TrainingSpec, path: Path | None) -> FrozenWeights | None:
    if spec.frozen is None:
        return None
    if path is None or file_hash(path) != spec.frozen:
        raise ValueError(f"the replay needs the weights that are not trained, the file with SHA-256 {spec.frozen}")
    return open_frozen(path, frozen_tensors(spec))


def end_hash(commit: Any) -> bytes | None:
    """SHA-256 of the packed moments that a commit promises for the seat's next round; None where it promises none."""
    moments = getattr(commit, "end_moments", None)
    return bytes.fromhex(moments) if moments and commit.segments else None


def _forgeable(miss: Miss, upload: bytes | None, committed: bytes) -> list[str]:
    """Why this miss proves nothing: it lies in a file that no signature covers."""
    if miss.what == "upload" and (upload is None or hashlib.sha256(upload).digest() != committed):
        return ["the committed upload is not here, so that it is missed proves nothing"]
    if miss.what == "claim":
        return ["leaves.bin is not the committed tree: anybody could have written it"]
    if miss.what == "before" and miss.replayed:
        return ["an opened state is not the committed one: anybody could have written it"]
    return []


def _challenge_problems(challenge: Any, commit: Any, drawn: frozenset[int]) -> list[str]:
    if challenge is None:
        return []
    secret, block = bytes.fromhex(challenge["secret"]), bytes.fromhex(challenge["block_hash"])
    seed = challenge_seed(secret, block, bytes.fromhex(commit.root))
    expected = draw(
        seed,
        commit.segments,
        newcomer=bool(challenge["newcomer"]),
        small_job=bool(challenge["small_job"]),
        extra=int(challenge.get("extra", 0)),
    )
    return [] if expected == drawn else ["the drawn segments do not follow from the challenge"]


def _document(path: Path, kind: str) -> tuple[SimpleNamespace, bytes, str]:
    """(the document's fields, its hash, its signer), once the signature holds. Raises ValueError."""
    raw = _read(path, MAX_DOCUMENT)
    signed = json.loads(raw)
    text, signer = str(signed["text"]), str(signed["signer"])
    if problem := _signature_problem(raw, kind):
        raise ValueError(f"{path.name}: {problem}")
    return SimpleNamespace(**json.loads(text)), hashlib.sha256(text.encode("ascii")).digest(), signer


def _signature_problem(raw: bytes, kind: str) -> str:
    """Why the document is not one of this kind, validly signed and in canonical form, or an empty string."""
    try:
        # by name: this package by itself needs torch and numpy alone, only a recheck needs the wheel's signatures
        messages = importlib.import_module("cloudlinkup.wire.messages")
        errors = importlib.import_module("cloudlinkup.errors")
    except ImportError as error:
        return f"signatures cannot be checked here ({error}): install cloudlinkup"
    try:
        signed = messages.Signed.from_bytes(raw)
        own = json.loads(signed.text)
        place = {"genesis": str(own.get("genesis")), "program": str(own.get("program"))}
        messages.verify(getattr(messages, kind), signed, signer=signed.signer, **place)
    except (errors.ProtocolError, ValueError, AttributeError) as error:
        return str(error)
    return ""


def _key(text: str) -> bytes:
    """32 bytes of a base58 key, of a document that was checked."""
    number = 0
    for character in text:
        number = number * 58 + _BASE58.index(character)
    return number.to_bytes(32, "big")


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path.name} is larger than {limit} bytes")
    return data


def _optional(path: Path, limit: int) -> bytes | None:
    return _read(path, limit) if path.exists() else None


def _states(folder: Path, kind: str, limit: int) -> dict[int, bytes]:
    return {int(path.stem.partition("-")[2]): _read(path, limit) for path in folder.glob(f"{kind}-*.bin")}


def main(arguments: list[str] | None = None) -> int:
    """0: confirmed. 1: not confirmed. 2: not evidence."""
    parser = argparse.ArgumentParser(prog="python -m cloudlinkup.verify.evidence", description="Runs evidence again.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frozen", type=Path, help="the safetensors file of what is not trained")
    told = parser.parse_args(arguments)
    try:
        found = recheck(told.folder, told.frozen)
    except (ValueError, TypeError, KeyError, OSError) as error:
        print(f"not evidence: {error}", file=sys.stderr)
        return 2
    for line in [*found.facts, *(f"problem: {problem}" for problem in found.problems)]:
        print(line)
    print("confirmed: the committed work is not what was ordered" if found.confirmed else "not confirmed")
    return 0 if found.confirmed else 1


if __name__ == "__main__":
    sys.exit(main())
