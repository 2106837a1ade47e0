import hashlib
import json
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from solders.keypair import Keypair

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.training.data import pack_partition
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.states import hash_state
from cloudlinkup.verify import evidence, merkle
from cloudlinkup.verify.challenge import draw
from cloudlinkup.verify.evidence import make_evidence, recheck, write_evidence
from cloudlinkup.verify.replay import Case, Claim, replay, shard_leaves
from cloudlinkup.wire.hashes import challenge_seed, partition_hash, sha256
from cloudlinkup.wire.messages import Commit, Order, sign

VERIFIER, AGENT, WALLET = (Signer(Keypair()) for _ in range(3))
SALT, SECRET, BLOCK = b"n" * 16, b"s" * 32, b"b" * 32


class LazyFromThirdSegment(SegmentRunner):
    def step(self, index):
        if index >= 20:
            self._steps += 1
        else:
            super().step(index)


def some_key():
    return str(Keypair().pubkey())


def rejected(scene, kind, agent=AGENT, with_states=True):
    """A real order, a real commit and the audit's result for the work of a runner of this kind."""
    genesis, program = some_key(), some_key()
    order = sign(
        VERIFIER,
        Order(
            genesis=genesis,
            program=program,
            job=some_key(),
            job_id="0" * 32,
            round=1,
            seat=0,
            attempt=0,
            wallet=str(WALLET.public),
            agent=str(AGENT.public),
            spec_hash=scene.spec.hash,
            partition_hash=partition_hash(SALT, pack_partition(scene.features, scene.targets)).hex(),
            weights_hash=sha256(scene.published.tobytes()),
            seed=scene.work.seed.hex(),
            segment_steps=scene.work.segment_steps,
            max_segments=scene.work.max_segments,
            progress_from=scene.work.progress_from,
            progress_to=scene.work.progress_to,
            pay_per_step=1,
            time_box=60.0,
            max_bytes=10**6,
            numeric_mode="fp32",
            result_key="0" * 64,
        ),
    )
    shard = scene.run(kind)
    hashes = [hash_state(state) for state in shard.states[1:]]
    upload_hash = hashlib.sha256(shard.upload).digest()
    leaves = shard_leaves(order.hash, bytes(WALLET.public), scene.work.segment_steps, hashes, upload_hash)
    root = merkle.root(leaves)
    facts = Commit(
        genesis=genesis, program=program, order=order.hash.hex(), root=root.hex(), segments=6, upload=upload_hash.hex()
    )
    commit = sign(agent, facts)
    drawn = draw(challenge_seed(SECRET, BLOCK, root), 6, newcomer=True, small_job=True)
    case = Case(
        spec=scene.spec,
        work=scene.work,
        published=scene.published,
        features=scene.features,
        targets=scene.targets,
        claim=Claim(order.hash, bytes(WALLET.public), root, 6, upload_hash, tuple(leaves)),
        drawn=drawn,
        upload=shard.upload,
        before_states={k: shard.states[k - 1] for k in drawn if k > 1} if with_states else {},
        after_states={k: shard.states[k] for k in range(1, 7)} if with_states else {},
    )
    return order, commit, case


@pytest.fixture
def folder(scene, tmp_path):
    order, commit, case = rejected(scene, LazyFromThirdSegment)
    result = replay(case)
    told = make_evidence(
        order=order,
        commit=commit,
        result=result,
        salt=SALT.hex(),
        challenge={"secret": SECRET.hex(), "block_hash": BLOCK.hex(), "newcomer": True, "small_job": True},
    )
    assert len(json.dumps(told)) < 256 * 1024
    write_evidence(tmp_path / "evidence", told, case)
    return tmp_path / "evidence"


def test_a_third_person_confirms_it(folder, capsys):
    found = recheck(folder)
    assert found.confirmed and found.problems == ()
    assert found.result is not None and found.result.miss is not None and found.result.miss.what == "leaf"
    assert found.result.miss.deviation is not None and found.result.miss.deviation > 0.5
    assert evidence.main([str(folder)]) == 0
    assert capsys.readouterr().out.endswith("\nconfirmed: the committed work is not what was ordered\n")


def test_it_is_private(folder):
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_honest_work_cannot_be_made_to_look_rejected(scene, tmp_path):
    order, commit, case = rejected(scene, SegmentRunner)
    result = replay(case)
    with pytest.raises(ValueError):
        make_evidence(order=order, commit=commit, result=result)
    # a flow that lies about what the replay gave
    lazy = replay(rejected(scene, LazyFromThirdSegment)[2])
    told = make_evidence(order=order, commit=commit, result=lazy, salt=SALT.hex())
    write_evidence(tmp_path / "lie", told, case)
    found = recheck(tmp_path / "lie")
    assert not found.confirmed and any("nothing was missed" in problem for problem in found.problems)
    # and one that also swaps rows or weights
    changes: list[dict] = [
        {"features": scene.features[::-1].copy()},
        {"published": scene.published + np.float32(0.01)},
        {"spec": replace(scene.spec, lr=0.02)},
        {"upload": None},
        {"upload": bytes(8)},
    ]
    for number, change in enumerate(changes):
        write_evidence(tmp_path / f"swap-{number}", told, replace(case, **change))
        found = recheck(tmp_path / f"swap-{number}")
        assert not found.confirmed and found.problems


def test_a_commit_of_somebody_else_or_another_order_proves_nothing(scene, tmp_path):
    order, commit, case = rejected(scene, LazyFromThirdSegment, agent=VERIFIER)
    told = make_evidence(order=order, commit=commit, result=replay(case), salt=SALT.hex())
    write_evidence(tmp_path / "a", told, case)
    assert any("agent" in problem for problem in recheck(tmp_path / "a").problems)
    other_order, _, _ = rejected(scene, LazyFromThirdSegment)
    write_evidence(tmp_path / "b", {**told, "order": other_order.model_dump()}, case)
    assert any("another order" in problem for problem in recheck(tmp_path / "b").problems)


@pytest.mark.parametrize("change", ["salt", "drawn", "secret", "leaves", "before"])
def test_what_was_altered_is_named(folder, change):
    path = folder / "result.json"
    told = json.loads(path.read_text())
    if change == "salt":
        told["salt"] = ""
    elif change == "drawn":
        told["drawn"] = [k for k in range(1, 7) if k not in told["drawn"]]
    elif change == "secret":
        commit = json.loads(json.loads((folder / "commit.json").read_text())["text"])
        told["challenge"]["secret"] = next(  # one that draws others: by chance it may draw the same
            secret.hex()
            for secret in (bytes([k]) * 32 for k in range(1, 256))
            if draw(challenge_seed(secret, BLOCK, bytes.fromhex(commit["root"])), 6, newcomer=True, small_job=True)
            != frozenset(told["drawn"])
        )
    elif change == "leaves":
        (folder / "leaves.bin").write_bytes(bytes(32 * 8))
    else:
        for state in folder.glob("before-*.bin"):
            state.write_bytes(bytes(state.stat().st_size))
    path.write_text(json.dumps(told))
    found = recheck(folder)
    assert not found.confirmed and found.problems


def test_a_broken_signature_is_no_evidence(folder, capsys):
    document = json.loads((folder / "commit.json").read_text())
    document["text"] = document["text"].replace('"segments":6', '"segments":5')
    (folder / "commit.json").write_text(json.dumps(document))
    assert evidence.main([str(folder)]) == 2
    assert "bad signature" in capsys.readouterr().err
    assert evidence.main([str(folder / "nowhere")]) == 2


def test_without_leaves_the_whole_shard_is_replayed(scene, tmp_path):
    order, commit, case = rejected(scene, LazyFromThirdSegment, with_states=False)
    case = replace(case, claim=replace(case.claim, leaves=()))
    result = replay(case)
    write_evidence(Path(tmp_path), make_evidence(order=order, commit=commit, result=result, salt=SALT.hex()), case)
    found = recheck(Path(tmp_path))
    assert found.confirmed and found.result is not None and found.result.miss is not None
    assert found.result.miss.what == "root"


def test_base58_keys_are_solders_own():
    for key in [Keypair().pubkey() for _ in range(20)]:
        assert evidence._key(str(key)) == bytes(key)
    assert evidence._key("1" * 32) == bytes(32)


def test_without_a_way_to_check_signatures_nothing_is_confirmed(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cloudlinkup.wire.messages", None)
    assert evidence.main([str(folder)]) == 2
    assert "signatures cannot be checked" in capsys.readouterr().err
