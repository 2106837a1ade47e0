"""TLS for the local stack: one server certificate for loopback, and a certificate authority that can do nothing else.

The authority is constrained to 127.0.0.0/8, ::1 and localhost, its private key exists only while the certificate is
made, and the machine's trust store is never touched: our own clients are pointed at ``ca.pem``. Files in the folder:
``ca.pem``, ``cert.pem``, ``key.pem`` (0600). Renewal makes all three anew, so clients read ``ca.pem`` again when they
start.

Not covered: a gateway that others reach. That needs a certificate of a public authority for its name.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=397)
RENEW_BEFORE = timedelta(days=30)
_BACKDATE = timedelta(hours=1)  # for clocks that are a little behind


@dataclass(frozen=True)
class Certificates:
    """Paths of the three PEM files."""

    ca: Path
    cert: Path
    key: Path


def make_certificates(folder: Path, now: datetime | None = None) -> Certificates:
    """The files in `folder`, made on first use and again when they are damaged or about to expire."""
    now = now or datetime.now(UTC)
    files = Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    if not _good(files, now):
        _make(files, now)
    return files


def client_context(ca: Path) -> ssl.SSLContext:
    """What a client uses to trust this authority and no other."""
    return ssl.create_default_context(cafile=str(ca))


def _good(files: Certificates, now: datetime) -> bool:
    try:
        certs = [x509.load_pem_x509_certificate(path.read_bytes()) for path in (files.ca, files.cert)]
        certs[1].verify_directly_issued_by(certs[0])
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.cert, files.key)  # the key fits
        private = not files.key.stat().st_mode & 0o077
    except (OSError, ValueError, TypeError, InvalidSignature):  # absent, damaged, or not made together
        return False
    return private and all(c.not_valid_before_utc <= now < c.not_valid_after_utc - RENEW_BEFORE for c in certs)


def _make(files: Certificates, now: datetime) -> None:
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CloudLinkUp local authority (loopback only)")])
    ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())

    def start(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + LIFETIME)
        )

    constraints = x509.NameConstraints(
        permitted_subtrees=[
            x509.DNSName("localhost"),
            x509.IPAddress(ip_network("127.0.0.0/8")),
            x509.IPAddress(ip_network("::1/128")),
        ],
        excluded_subtrees=None,
    )
    ca = (
        start(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(constraints, critical=True)
        .add_extension(ca_id, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName("localhost"),
            x509.IPAddress(ip_address("127.0.0.1")),
            x509.IPAddress(ip_address("::1")),
        ]
    )
    cert = (
        start(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    files.key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _replace(files.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    _replace(files.cert, cert.public_bytes(Encoding.PEM), 0o644)
    _replace(files.ca, ca.public_bytes(Encoding.PEM), 0o644)


def _usage(*, key_cert_sign: bool = False, digital_signature: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _replace(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by others in between (mkstemp makes 0600)."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    Path(name).chmod(mode)
    Path(name).replace(path)
