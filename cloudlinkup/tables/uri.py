"""Which URIs a job may name. A client's URI must not become a way to read the server's files or its network.

Allowed: a plain path or `file:` below a configured folder (after symlinks), `https:` to hosts all of whose addresses
are public, `s3:`. Refused: other schemes, `::` chains, user names and passwords, signed queries, and addresses that are
private, loopback, link-local or translate into such. Credentials go by name (environment, profile), never in a URI.
Whoever then connects must use the addresses that were checked: `tables/read.py` does.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from cloudlinkup.errors import BadInput
from cloudlinkup.home import Home

FIELD = "data.uri"
_SECRET = re.compile(
    r"^(x-(amz|goog|ms|oss|cos)-.*|.*(signature|token|secret|password|passwd|credential|apikey|api_key|access_?key).*"
    r"|sig|sv|se|key|auth|awsaccesskeyid|googleaccessid)$",
    re.IGNORECASE,
)
_BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")


def printable(uri: str) -> str:
    """The URI without what may be secret in it."""
    head, _, _ = uri.partition("?")
    head, _, _ = head.partition("#")
    return re.sub(r"//[^/@]*@", "//...@", head) + ("?..." if "?" in uri else "")


def refuse(uri: str, problem: str, fix: str) -> BadInput:
    """A BadInput for `data.uri` that shows no credentials."""
    return BadInput(FIELD, printable(uri), problem, fix)


def scheme_of(uri: str) -> str:
    """ "file", "https" or "s3". Raises BadInput for anything else and for chained, multi-line or odd URIs."""
    if not uri.isprintable() or uri != uri.strip() or "\\" in uri:
        raise refuse(uri, "holds spaces at its ends, control characters or backslashes", "write it as a plain URI")
    if "::" in uri:
        raise refuse(uri, "chains several file systems", "give one plain URI")
    scheme = re.match(r"^([A-Za-z][A-Za-z0-9+.-]*):", uri)
    if scheme is None:
        if uri.startswith(("//", "~")):
            raise refuse(uri, "is neither a path nor a URI", "give a path below a configured folder, or an https URI")
        return "file"
    name = scheme.group(1).lower()
    if name not in ("file", "https", "s3"):
        raise refuse(uri, f"the scheme {name}: is not allowed", "use https:, s3: or a path below a configured folder")
    return name


def split(uri: str) -> SplitResult:
    """The parts of an https: or s3: URI without user name, password, signed query, fragment or odd host."""
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        raise refuse(uri, "is not a valid URI", "correct it") from None
    if "@" in parts.netloc:
        raise refuse(uri, "holds a user name or password", "name a credential profile in the environment instead")
    if not parts.hostname:
        raise refuse(uri, "names no host or bucket", "correct it")
    if parts.fragment:
        raise refuse(uri, "holds a fragment", "remove what follows #")
    secret = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if _SECRET.match(name)]
    if secret:
        raise refuse(uri, "holds a signed or secret query", "use a public URI, or s3: with credentials by name")
    return parts


def check_uri(uri: str, roots: tuple[Path, ...]) -> None:
    """Raises BadInput("data.uri") unless the URI may be read. Resolves the host of an https: URI (blocking)."""
    scheme = scheme_of(uri)
    if scheme == "file":
        local_file(uri, roots)
        return
    parts = split(uri)
    if scheme == "s3":
        if not _BUCKET.match(parts.netloc) or parts.query or len(parts.path) < 2:
            raise refuse(uri, "is not s3://bucket/key", "give a bucket and a key, without a query")
        return
    public_addresses(parts.hostname or "", uri)


def local_file(uri: str, roots: tuple[Path, ...]) -> Path:
    """The existing regular file, symlinks resolved, below one of `roots`. Raises BadInput.

    A relative path is looked for below the working folder, then below each root.
    """
    path = _path_of(uri)
    fix = "move it below one of the folders that the server allows (CLOUDLINKUP_FILE_ROOTS)"
    allowed = [root.resolve() for root in roots]
    candidates = [path] if path.is_absolute() else [Path.cwd() / path, *(root / path for root in allowed)]
    for candidate in candidates:
        try:
            real = candidate.resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            continue
        # what lies outside is reported like what is missing, so that nobody maps the server's files
        if any(_open_below(real, root) for root in allowed) and real.is_file():
            return real
    raise refuse(uri, "is not a readable file below an allowed folder", fix)


def _open_below(path: Path, root: Path) -> bool:
    """Below `root`, through no hidden folder or file there (.git, .ssh, .env), and not in our own state, keys in it."""
    if not path.is_relative_to(root) or path.is_relative_to(Home.find().root.resolve()):
        return False
    return not any(part.startswith(".") for part in path.relative_to(root).parts)


def _path_of(uri: str) -> Path:
    if not uri.lower().startswith("file:"):
        return Path(uri)
    rest = uri[5:]
    if "?" in rest or "#" in rest:
        raise refuse(uri, "holds a query or fragment", "remove it")
    if rest.startswith("//"):
        host, slash, tail = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise refuse(uri, "names a file on another host", "use file:///path or a plain path")
        rest = slash + tail
    decoded = unquote(rest)
    if "\x00" in decoded:
        raise refuse(uri, "holds a zero byte", "correct it")
    return Path(decoded)


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, and not a tunnel's or translator's form of one that is not."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip.sixtofour is not None or ip.teredo is not None or ip in ipaddress.ip_network("64:ff9b::/96"):
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def public_addresses(host: str, uri: str) -> list[str]:
    """The host's addresses, if every one of them is public. Raises BadInput otherwise. Blocking."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise refuse(uri, "its host cannot be resolved", "check the host's name") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not addresses or not all(is_public(address) for address in addresses):
        raise refuse(uri, "its host is not on the public internet", "use a public host, s3: or an allowed folder")
    return addresses
