import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlinkup.errors import BadInput
from cloudlinkup.tables import uri as uris
from cloudlinkup.tables.uri import check_uri, is_public, printable


@pytest.fixture
def roots(tmp_path):
    inside, outside = tmp_path / "allowed", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "table.csv").write_text("a,b\n1,2\n")
    (outside / "secret.csv").write_text("a,b\n1,2\n")
    (inside / "way-out.csv").symlink_to(outside / "secret.csv")
    (inside / "folder-out").symlink_to(outside)
    (inside / "inward.csv").symlink_to(inside / "table.csv")
    return (inside,)


def test_files_below_a_root_are_allowed(roots, monkeypatch):
    inside = roots[0]
    for uri in (f"{inside}/table.csv", f"file://{inside}/table.csv", f"file:{inside}/table.csv", "table.csv"):
        check_uri(uri, roots)
    check_uri(f"file://localhost{inside}/t%61ble.csv", roots)
    check_uri(f"{inside}/inward.csv", roots)
    monkeypatch.chdir(inside)
    check_uri("./table.csv", roots)


HOSTILE = [
    "file:///etc/passwd",
    "/etc/passwd",
    "../outside/secret.csv",
    "{root}/../outside/secret.csv",
    "file://{root}/%2e%2e/outside/secret.csv",
    "{root}/way-out.csv",
    "{root}/folder-out/secret.csv",
    "{root}",
    "{root}/none.csv",
    "file://server/share/table.csv",
    "file://{root}/table.csv?x=1",
    "file://{root}/table.csv%00.parquet",
    "~/table.csv",
    "//server/share/table.csv",
    "/proc/self/environ",
    "/dev/zero",
    "http://example.com/table.csv",
    "ftp://example.com/table.csv",
    "data:text/csv,a",
    "gs://bucket/key",
    "github://org:repo@/x.csv",
    "memory://x",
    "ssh://host/x",
    "javascript:alert(1)",
    "C:/table.csv",
    "simplecache::https://example.com/table.csv",
    "zip://*.csv::https://example.com/a.zip",
    "filecache::file:///etc/passwd",
    "s3://bucket/key::x",
    "https://user:secret-word@example.com/t.csv",
    "https://secret-word@example.com/t.csv",
    "s3://AKIA:secret-word@bucket/key",
    "https://example.com/t.csv?X-Amz-Signature=secret-word&X-Amz-Credential=secret-word",
    "https://example.com/t.csv?x-amz-security-token=secret-word",
    "https://example.com/t.csv?X-Goog-Signature=secret-word",
    "https://account.blob.core.windows.net/c/t.csv?sv=2020&sig=secret-word",
    "https://example.com/t.csv?Signature=secret-word",
    "https://example.com/t.csv?access_token=secret-word",
    "https://example.com/t.csv?token=secret-word",
    "https://example.com/t.csv?api_key=secret-word",
    "https://example.com/t.csv#part",
    "https:///t.csv",
    "https://exa mple.com:port/t.csv",
    "https://127.0.0.1/t.csv",
    "https://localhost/t.csv",
    "https://[::1]/t.csv",
    "https://10.1.2.3/t.csv",
    "https://192.168.0.1/t.csv",
    "https://172.16.9.9/t.csv",
    "https://169.254.169.254/latest/meta-data/",
    "https://[::ffff:169.254.169.254]/",
    "https://[fe80::1]/",
    "https://[fd00:ec2::254]/",
    "https://[64:ff9b::a9fe:a9fe]/",
    "https://[2002:a00:1::]/",
    "https://0/t.csv",
    "https://2130706433/t.csv",
    "https://0x7f.1/t.csv",
    "https://127.1/t.csv",
    "s3://bucket",
    "s3://bucket/",
    "s3://../key",
    "s3://bucket/key?versionId=1",
    " https://example.com/t.csv",
    "https://example.com/t.csv\n",
    "https:\\\\example.com\\t.csv",
    "https://example.com\\@127.0.0.1/t.csv",
]


@pytest.mark.parametrize("uri", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_uris_are_refused_without_showing_secrets(uri, roots):
    with pytest.raises(BadInput) as caught:
        check_uri(uri.format(root=roots[0]), roots)
    assert caught.value.field == "data.uri" and caught.value.fix
    assert "secret-word" not in str(caught.value)


def resolver(*addresses):
    def getaddrinfo(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

    return getaddrinfo


def test_every_address_of_a_host_must_be_public(monkeypatch):
    monkeypatch.setattr(uris.socket, "getaddrinfo", resolver("8.8.8.8", "1.1.1.1"))
    check_uri("https://data.example/t.csv?version=2", ())
    for inside in ("10.0.0.1", "127.0.0.1", "169.254.169.254", "::1"):
        monkeypatch.setattr(uris.socket, "getaddrinfo", resolver("8.8.8.8", inside))
        with pytest.raises(BadInput, match="public"):
            check_uri("https://data.example/t.csv", ())


def test_s3_needs_a_bucket_and_a_key():
    check_uri("s3://some-bucket/folder/table.parquet", ())


@given(st.text(max_size=60))
def test_any_text_is_judged_without_a_crash(text):
    try:
        uris.scheme_of(text)
        if uris.scheme_of(text) != "file":
            uris.split(text)
    except BadInput as error:
        assert error.field == "data.uri"


@given(st.ip_addresses())
def test_an_address_is_never_public_in_a_private_disguise(address):
    if address.version == 4 and not is_public(str(address)):
        assert not is_public(f"::ffff:{address}")
        assert not is_public("64:ff9b::" + f"{int(address) >> 16:x}:{int(address) & 0xFFFF:x}")


def test_what_is_printed_holds_no_secret():
    assert printable("https://me:pw@host/p?sig=1#f") == "https://...@host/p?..."


@pytest.mark.parametrize("place", [".git/config", ".env", "data/.hidden/table.csv", "state/keys/owner.json"])
def test_hidden_files_and_our_own_state_are_not_data(place, roots, monkeypatch):
    monkeypatch.setenv("CLOUDLINKUP_HOME", str(roots[0] / "state"))
    target = roots[0] / place
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match="not a readable file below an allowed folder"):
        check_uri(str(target), roots)
