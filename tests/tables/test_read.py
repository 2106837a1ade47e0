import asyncio
import datetime
import io
import ssl
from contextlib import asynccontextmanager

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloudlinkup.errors import BadInput, Unavailable
from cloudlinkup.tables.read import download, parse_table, read_table
from cloudlinkup.types import DataSpec

CANARY = "canary-5871"


def csv(uri="table.csv"):
    return DataSpec(uri=uri, format="csv", label="b")


def parquet(uri="table.parquet"):
    return DataSpec(uri=uri, format="parquet", label="b")


def packed(frame, **kwargs):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame), buffer, **kwargs)
    return buffer.getvalue()


async def test_csv_and_parquet_read_alike(tmp_path):
    frame = pd.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"]})
    frame.to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "table.parquet").write_bytes(packed(frame.set_index("a")))  # an index is a column like any other
    one = await read_table(csv(), (tmp_path,))
    two = await read_table(parquet(f"file://{tmp_path}/table.parquet"), (tmp_path,))
    pd.testing.assert_frame_equal(one, two.reindex(columns=["a", "b"]))


async def test_a_file_over_the_limit_is_refused(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n" + "1,2\n" * 100)
    assert len(await read_table(csv(), (tmp_path,), max_bytes=404)) == 100
    with pytest.raises(BadInput, match="larger"):
        await read_table(csv(), (tmp_path,), max_bytes=403)
    with pytest.raises(BadInput, match="allowed folder"):
        await read_table(csv(str(tmp_path / "table.csv")), (tmp_path / "other",))


BROKEN = {
    "more fields later": f"a,b\n1,2\n{CANARY},{CANARY},3\n".encode(),
    "more fields always": f"a,b\n{CANARY},2,3\n{CANARY},2,3\n".encode(),
    "not utf-8": f"a,b\n{CANARY},".encode() + b"\xff\xfe\n",
    "empty": b"",
    "open quote": f'a,b\n1,"{CANARY}\n'.encode(),
    "zeros": b"\x00" * 50,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_csv_is_refused_without_its_cells(name):
    try:
        frame = parse_table(BROKEN[name], csv())
    except BadInput as error:
        assert CANARY not in str(error) and error.field == "data.uri"
        assert error.__context__ is None or error.__suppress_context__
    else:
        assert name == "zeros" and len(frame) == 0


def test_parquet_that_is_not_or_that_unpacks_too_large_is_refused():
    good = packed(pd.DataFrame({"a": np.zeros(500_000), "b": np.zeros(500_000)}), use_dictionary=False)
    assert len(parse_table(good, parquet())) == 500_000
    assert len(good) < 1_000_000
    with pytest.raises(BadInput, match="unpacked"):
        parse_table(good, parquet(), max_bytes=900_000)
    for bad in (b"", b"PAR1", good[:-10], b"PAR1" + bytes(100) + b"PAR1", good[: len(good) // 2] + good[-200:]):
        with pytest.raises(BadInput, match="Parquet"):
            parse_table(bad, parquet())


# ------------------------------------------------------------ https, on a real TLS server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "data.test")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("data.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(secret)
    return folder


@asynccontextmanager
async def server(certificate, answers):
    """Answers GET by path with (status, headers, body); remembers requests."""
    seen: list[bytes] = []

    async def handle(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head)
        status, headers, body = answers[head.split(b" ")[1].decode()]
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    running = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with running:
        yield running.sockets[0].getsockname()[1], seen


def only(host):
    """A resolver that knows this host alone, and refuses others as the real one refuses private addresses."""

    def resolve(name, uri):
        if name != host:
            raise BadInput("data.uri", name, "its host is not on the public internet", "-")
        return ["127.0.0.1"]

    return resolve


async def test_https_goes_to_the_checked_address_under_the_hosts_own_name(certificate):
    trust = ssl.create_default_context(cafile=certificate / "cert.pem")
    answers = {"/t.csv": (200, [], b"a,b\n1,2\n"), "/moved": (302, ["Location: /t.csv"], b"")}
    async with server(certificate, answers) as (port, seen):
        for path in ("/t.csv", "/moved"):
            raw = await download(f"https://data.test:{port}{path}", 100, resolve=only("data.test"), verify=trust)
            assert raw == b"a,b\n1,2\n"
        assert all(f"Host: data.test:{port}".encode() in head for head in seen) and len(seen) == 3
        # another name does not match the certificate
        with pytest.raises(Unavailable):
            await download(f"https://other.test:{port}/t.csv", 100, resolve=only("other.test"), verify=trust)
        with pytest.raises(BadInput, match="larger"):
            await download(f"https://data.test:{port}/t.csv", 7, resolve=only("data.test"), verify=trust)


@pytest.mark.parametrize(
    "location", ["https://169.254.169.254/", "http://data.test/t.csv", "file:///etc/passwd", "https://a@data.test/", ""]
)
async def test_a_redirect_to_what_would_be_refused_is_refused(certificate, location):
    trust = ssl.create_default_context(cafile=certificate / "cert.pem")
    answers = {"/": (302, [f"Location: {location}"] if location else [], b"")}
    async with server(certificate, answers) as (port, seen):
        with pytest.raises(BadInput):
            await download(f"https://data.test:{port}/", 100, resolve=only("data.test"), verify=trust)
        assert len(seen) == 1


async def test_a_chain_of_redirects_and_other_statuses_end(certificate):
    trust = ssl.create_default_context(cafile=certificate / "cert.pem")
    answers = {"/": (302, ["Location: /"], b""), "/gone": (404, [], CANARY.encode())}
    async with server(certificate, answers) as (port, seen):
        with pytest.raises(BadInput, match="redirects more"):
            await download(f"https://data.test:{port}/", 100, resolve=only("data.test"), verify=trust)
        assert len(seen) == 4
        with pytest.raises(BadInput, match="404") as caught:
            await download(f"https://data.test:{port}/gone", 100, resolve=only("data.test"), verify=trust)
        assert CANARY not in str(caught.value)


async def test_a_host_that_does_not_answer_ends_in_time(certificate):
    async def silent(reader, writer):
        await reader.read()  # until the client gives up
        writer.close()
        gone.set()

    gone = asyncio.Event()
    running = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = running.sockets[0].getsockname()[1]
    async with running:
        with pytest.raises(Unavailable):
            await download(f"https://data.test:{port}/", 100, seconds=0.3, resolve=only("data.test"))
        await asyncio.wait_for(gone.wait(), 10)
        await asyncio.sleep(0.05)


async def test_a_private_host_is_never_connected_to():
    with pytest.raises(BadInput, match="public"):
        await read_table(csv("https://127.0.0.1:9/t.csv"), ())
