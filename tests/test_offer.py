"""A contributor's price and hours: what is understood, what is refused, and that the signed hello stays readable."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.keypair import Keypair

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import BadInput, ProtocolError
from cloudlinkup.offer import (
    DAY,
    format_windows,
    open_seconds,
    opens_in,
    parse_ask,
    parse_reserve,
    parse_windows,
)
from cloudlinkup.types import canonical_json
from cloudlinkup.wire.messages import Hardware, Hello, Signed, sign, verify

KEY = "11111111111111111111111111111111"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2.5", (2_500_000, "hour")),
        ("0.50/h", (500_000, "hour")),
        ("0.000002/step", (2, "step")),
        ("0.03 / tmac", (30_000, "tmac")),
    ],
)
def test_asks(text: str, wanted: tuple[int, str]) -> None:
    assert parse_ask(text, 6) == wanted


@pytest.mark.parametrize("text", ["0", "0/h", "0.0/step", "1/epoch", "-1", "1e3", "99999999999999999999", "nan", "/h"])
def test_prices_of_nothing_or_beyond_any_account_are_refused_by_name(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_ask(text, 6)
    assert caught.value.field == "--ask" and caught.value.fix


def test_a_reserve_is_at_most_the_ask() -> None:
    assert parse_reserve(None, 5, 6) is None and parse_reserve("0.000005", 5, 6) == 5
    for bad in ("0.000006", "0", "cheap"):
        with pytest.raises(BadInput, match="--reserve"):
            parse_reserve(bad, 5, 6)


@pytest.mark.parametrize(
    "text",
    ["", "22-6", "22:00-22:00", "25:00-26:00", "12:60-13:00", "24:00-01:00", "1:00-2:00", "01:00-02:00," * 8 + "1"],
)
def test_hours_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--available"):
        parse_windows(text)


def test_hours_of_a_day() -> None:
    night = parse_windows("22:00-06:00, 12:00-13:00")
    assert format_windows(night) == "22:00-06:00,12:00-13:00" and format_windows(()) == "always"
    hour = 3_600.0
    assert open_seconds(night, 23 * hour) == 7 * hour  # over midnight, without a gap
    assert open_seconds(night, 12.5 * hour) == hour / 2
    assert open_seconds(night, 6 * hour) == 0.0 and opens_in(night, 6 * hour) == 6 * hour
    assert open_seconds((), 0) is None and open_seconds(parse_windows("00:00-24:00"), 5) is None
    assert opens_in((), 0) == 0


minutes = st.integers(0, DAY - 1)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(minutes, minutes).filter(lambda w: w[0] != w[1]), min_size=1, max_size=8), minutes)
def test_open_and_closed_agree_minute_by_minute(windows: list[tuple[int, int]], now: int) -> None:
    def inside(minute: int) -> bool:
        m = minute % DAY
        return any(a <= m < b if a < b else m >= a or m < b for a, b in windows)

    found = open_seconds(windows, now * 60.0)
    run = next((k for k in range(2 * DAY) if not inside(now + k)), None)
    assert found == (None if run is None else run * 60.0)
    if run is not None:
        assert opens_in(windows, now * 60.0) == 60.0 * next(k for k in range(DAY) if inside(now + k))


def hello(**more: object) -> Hello:
    hardware = Hardware(kind="cpu", name="a cpu", memory=1, threads=1, torch="2", capability="AVX2")
    fields = {
        "genesis": KEY, "program": KEY, "nonce": "0" * 64, "gateway": "g", "agent": KEY, "sealing_key": "0" * 64,
        "sealing_expires": 1, "hardware": hardware, "probes": (), "share": 0.5, "ask": 5, "version": "1",
    }  # fmt: skip
    return Hello.model_validate(fields | more)


def test_a_hello_of_an_earlier_version_and_one_with_hours_both_verify() -> None:
    signer = Signer(Keypair())
    plain = sign(signer, hello())
    assert not {"ask_per", "reserve", "windows"} & set(json.loads(plain.text))  # as it was signed before
    offer = hello(ask_per="step", reserve=3, windows=((1320, 360),))
    signed = sign(signer, offer)
    for document, wanted in ((plain, hello()), (signed, offer)):
        sent = Signed.from_bytes(document.to_bytes())
        assert verify(Hello, sent, signer=str(signer.public), genesis=KEY, program=KEY) == wanted


@pytest.mark.parametrize("change", [{"windows": [[0, 1441]]}, {"ask_per": "epoch"}, {"reserve": 2**64}, {"hour": 1}])
def test_a_hello_out_of_bounds_is_refused(change: dict[str, object]) -> None:
    signer = Signer(Keypair())
    text = canonical_json(json.loads(canonical_json(hello())) | change)
    import base64

    from solders.pubkey import Pubkey

    signature = base64.b64encode(signer.sign_text(Pubkey.from_string(KEY), text)).decode()
    forged = Signed(text=text.decode(), signer=str(signer.public), signature=signature)
    with pytest.raises(ProtocolError):
        verify(Hello, forged, signer=str(signer.public), genesis=KEY, program=KEY)
