"""The local authority: good for loopback and nothing else, kept until it is about to expire."""

from __future__ import annotations

import asyncio
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from deployments.tls import LIFETIME, RENEW_BEFORE, Certificates, client_context, make_certificates


async def served(files: Certificates, name: str, ca: Path | None = None) -> str | None:
    """Connects to a TLS server with these files, expecting `name`. Returns the verification error, if any."""
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(files.cert, files.key)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=server_side)
    async with server:
        port = server.sockets[0].getsockname()[1]
        context = client_context(ca or files.ca)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        writer.close()
        return None


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "::1"])
async def test_loopback_is_trusted(tmp_path: Path, name: str) -> None:
    assert await served(make_certificates(tmp_path / "tls"), name) is None


@pytest.mark.parametrize("name", ["example.org", "127.0.0.2", "192.0.2.1"])
async def test_other_names_are_not(tmp_path: Path, name: str) -> None:
    assert "match" in str(await served(make_certificates(tmp_path), name))


async def test_another_authority_is_not_trusted(tmp_path: Path) -> None:
    one, other = make_certificates(tmp_path / "one"), make_certificates(tmp_path / "other")
    assert await served(one, "localhost", other.ca) is not None


def test_key_is_private_and_nothing_else_is_kept(tmp_path: Path) -> None:
    files = make_certificates(tmp_path / "tls")
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.key.parent.stat().st_mode) == 0o700
    assert sorted(path.name for path in files.key.parent.iterdir()) == ["ca.pem", "cert.pem", "key.pem"]


def test_authority_is_constrained_to_loopback(tmp_path: Path) -> None:
    ca = x509.load_pem_x509_certificate(make_certificates(tmp_path).ca.read_bytes())
    extension = ca.extensions.get_extension_for_class(x509.NameConstraints)
    assert extension.critical and extension.value.permitted_subtrees is not None
    assert {str(name.value) for name in extension.value.permitted_subtrees} == {"localhost", "127.0.0.0/8", "::1/128"}
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert basic.ca and basic.path_length == 0


def test_made_once_and_renewed_in_time(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    first = make_certificates(tmp_path, now).cert.read_bytes()
    assert make_certificates(tmp_path, now + LIFETIME - RENEW_BEFORE - timedelta(days=1)).cert.read_bytes() == first
    assert make_certificates(tmp_path, now + LIFETIME - RENEW_BEFORE + timedelta(days=1)).cert.read_bytes() != first


@pytest.mark.parametrize("damage", ["missing", "junk", "of another pair", "readable by others"])
@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
async def test_damaged_files_are_made_anew(tmp_path: Path, name: str, damage: str) -> None:
    path, other = tmp_path / "tls" / name, make_certificates(tmp_path / "other")
    make_certificates(tmp_path / "tls")
    if damage == "missing":
        path.unlink()
    elif damage == "junk":
        path.write_text("junk")
    elif damage == "of another pair":
        path.write_bytes((other.key.parent / name).read_bytes())
    elif name == "key.pem":
        path.chmod(0o644)
    files = make_certificates(tmp_path / "tls")
    assert await served(files, "localhost") is None
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
