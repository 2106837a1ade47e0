"""A client's table, read under limits: bytes, cells, seconds. Errors name no cell.

CSV (UTF-8, comma, with a header) or Parquet. Files come from allowed folders, https from the very addresses that were
checked (each redirect is checked again, and followed by nobody else), s3 through s3fs where it is installed, with the
credentials of the process's environment or profile. Parsing itself cannot be interrupted: its input's size is bounded.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cloudlinkup.errors import BadInput, Unavailable
from cloudlinkup.tables.uri import check_uri, local_file, printable, public_addresses, refuse, scheme_of
from cloudlinkup.types import DataSpec, TokenizerSpec

MAX_BYTES = 512 * 2**20  # that are read into memory at most
MAX_SOURCE = 64 * 2**30  # of a source that is read in pieces
MAX_TOKENIZER = 12 * 2**20
MAX_CELLS = 300_000_000
MAX_EXPANSION = 8  # times MAX_BYTES that a Parquet file may take once unpacked
TIMEOUT = 120.0  # seconds for fetching
MAX_REDIRECTS = 3

PIECE = 8 * 2**20  # bytes of a file read at a time

Resolve = Callable[[str, str], list[str]]
Write = Callable[[bytes], object]


async def read_table(
    data: DataSpec, roots: tuple[Path, ...], max_bytes: int = MAX_BYTES, seconds: float = TIMEOUT
) -> pd.DataFrame:
    """The table behind `data.uri`, in memory. Raises BadInput by field and fix, or Unavailable when a host does not
    answer."""
    raw = await read_bytes(data.uri, roots, max_bytes, seconds)
    return await asyncio.to_thread(parse_table, raw, data, max_bytes)


async def read_bytes(uri: str, roots: tuple[Path, ...], max_bytes: int, seconds: float = TIMEOUT) -> bytes:
    """What is behind `uri`, in memory. Raises as `fetch`."""
    pieces: list[bytes] = []
    path = await _local_or(uri, roots, max_bytes, seconds, pieces.append)
    return b"".join(pieces) if path is None else await asyncio.to_thread(_whole, path, uri, max_bytes)


async def fetch(
    uri: str, roots: tuple[Path, ...], place: Path, max_bytes: int = MAX_BYTES, seconds: float = TIMEOUT
) -> Path:
    """A local file with what is behind `uri`: the file itself, or `place`, to which it was downloaded.

    Raises BadInput("data.uri") by problem and fix, and Unavailable when a host does not answer in time.
    """
    if scheme_of(uri) == "file":
        path = await _local_or(uri, roots, max_bytes, seconds, _nothing)
        assert path is not None
        return path
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        await _local_or(uri, roots, max_bytes, seconds, file.write)
    return place


def _nothing(_: bytes) -> None:
    pass


async def _local_or(uri: str, roots: tuple[Path, ...], limit: int, seconds: float, write: Write) -> Path | None:
    """The local file that `uri` names, or None after the bytes behind it were written."""
    scheme = scheme_of(uri)
    await asyncio.to_thread(check_uri, uri, roots)
    try:
        async with asyncio.timeout(seconds):
            if scheme == "file":
                path = await asyncio.to_thread(local_file, uri, roots)
                if path.stat().st_size > limit:
                    raise _too_large(uri, limit)
                return path
            if scheme == "https":
                await _get(uri, limit, write, seconds=seconds)
            else:
                await asyncio.to_thread(_read_s3, uri, limit, seconds, write)
    except TimeoutError:
        raise Unavailable(f"data.uri did not answer within {seconds:g} s. Fix: try again, or copy it nearer") from None
    return None


async def read_tokenizer(spec: TokenizerSpec, roots: tuple[Path, ...], seconds: float = TIMEOUT) -> str:
    """The document of a tokenizer.json. Raises BadInput("data.tokenizer...") and Unavailable."""
    try:
        raw = await read_bytes(spec.uri, roots, MAX_TOKENIZER, seconds)
    except BadInput as error:
        raise BadInput("data.tokenizer.uri", error.value, error.problem, error.fix) from None
    if hashlib.sha256(raw).hexdigest() != spec.sha256:
        problem = "is not the SHA-256 of what its URI holds"
        raise BadInput("data.tokenizer.sha256", spec.sha256, problem, "correct it, or restore the file")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        problem = "is not UTF-8 text"
        raise BadInput("data.tokenizer.uri", printable(spec.uri), problem, "give a tokenizer.json") from None


def _too_large(uri: str, limit: int) -> BadInput:
    return refuse(uri, f"is larger than {limit // 2**20} MiB", "sample it, or drop columns")


def _whole(path: Path, uri: str, limit: int) -> bytes:
    with path.open("rb") as file:
        raw = file.read(limit + 1)  # it may have grown since it was looked at
    if len(raw) > limit:
        raise _too_large(uri, limit)
    return raw


def _read_s3(uri: str, limit: int, seconds: float, write: Write) -> None:
    try:
        import s3fs
    except ImportError:
        raise Unavailable("reading s3: needs s3fs. Fix: install it, or use https: or a file") from None
    config = {"connect_timeout": min(seconds, 10.0), "read_timeout": seconds, "retries": {"max_attempts": 2}}
    system = s3fs.S3FileSystem(config_kwargs=config, use_listings_cache=False, skip_instance_cache=True)
    try:
        if int(system.info(uri)["size"]) > limit:
            raise _too_large(uri, limit)
        with system.open(uri, "rb", block_size=8 * 2**20, cache_type="readahead") as file:
            size = 0
            while piece := file.read(PIECE):
                assert isinstance(piece, bytes)
                size += len(piece)
                if size > limit:
                    raise _too_large(uri, limit)
                write(piece)
    except FileNotFoundError:
        raise refuse(uri, "there is no such object", "check bucket and key") from None
    except PermissionError:
        raise refuse(uri, "access is refused", "give this process credentials by name (AWS_PROFILE)") from None
    except BadInput:
        raise
    except Exception as error:  # botocore's tree is not ours to import; its messages may hold request details
        raise Unavailable(f"s3 did not answer ({type(error).__name__}). Fix: check endpoint and credentials") from None


async def download(
    uri: str,
    limit: int,
    *,
    seconds: float = TIMEOUT,
    resolve: Resolve = public_addresses,
    verify: ssl.SSLContext | bool = True,
) -> bytes:
    """What `uri` answers, in memory. Raises as `_get`."""
    pieces: list[bytes] = []
    await _get(uri, limit, pieces.append, seconds=seconds, resolve=resolve, verify=verify)
    return b"".join(pieces)


async def _get(
    uri: str,
    limit: int,
    write: Write,
    *,
    seconds: float,
    resolve: Resolve = public_addresses,
    verify: ssl.SSLContext | bool = True,
) -> None:
    """GET over https, connecting to an address that `resolve` allowed, with the host's own name in SNI and certificate.

    Raises BadInput for a refused address, redirect, status or size; Unavailable when the host does not answer.
    """
    limits = httpx.Timeout(min(seconds, TIMEOUT), connect=min(seconds, 10.0))
    async with httpx.AsyncClient(verify=verify, timeout=limits, trust_env=False, follow_redirects=False) as client:
        where = uri
        for _ in range(MAX_REDIRECTS + 1):
            parts = httpx.URL(where)
            addresses = await asyncio.to_thread(resolve, parts.host, uri)
            request = client.build_request(
                "GET",
                parts.copy_with(host=addresses[0]),
                headers={"Host": parts.netloc.decode("ascii"), "Accept-Encoding": "identity"},
                extensions={"sni_hostname": parts.host},
            )
            try:
                response = await client.send(request, stream=True)
                try:
                    if response.is_redirect:
                        where = _redirected(uri, where, response.headers.get("location", ""))
                        continue
                    if response.status_code != 200:
                        raise refuse(uri, f"answered with status {response.status_code}", "check the URI")
                    await _body(response, uri, limit, write)
                    return
                finally:
                    await response.aclose()
            except httpx.HTTPError as error:
                raise Unavailable(f"data.uri did not answer ({type(error).__name__}). Fix: try again later") from None
        raise refuse(uri, f"redirects more than {MAX_REDIRECTS} times", "give the final URI")


def _redirected(uri: str, where: str, location: str) -> str:
    target = urljoin(where, location)
    if not location or not target.lower().startswith("https:") or httpx.URL(target).userinfo:
        raise refuse(uri, "redirects to what is not plain https", "give the final URI")
    return target


async def _body(response: httpx.Response, uri: str, limit: int, write: Write) -> None:
    if int(response.headers.get("content-length") or 0) > limit:
        raise _too_large(uri, limit)
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > limit:
            raise _too_large(uri, limit)
        write(chunk)


def parse_table(raw: bytes, data: DataSpec, max_bytes: int = MAX_BYTES) -> pd.DataFrame:
    """The bytes as a table. Raises BadInput that gives at most a line number."""
    frame = _parquet(raw, data, max_bytes) if data.format == "parquet" else _csv(raw, data)
    if frame.size > MAX_CELLS:
        raise refuse(data.uri, f"has more than {MAX_CELLS:,} cells", "sample it, or drop columns")
    frame.columns = [str(name) for name in frame.columns]
    return frame


def _csv(raw: bytes, data: DataSpec) -> pd.DataFrame:
    try:
        frame = pd.read_csv(io.BytesIO(raw), encoding="utf-8-sig", compression=None, low_memory=False)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise refuse(data.uri, f"is not UTF-8 text (line {line})", "save it as UTF-8, or as Parquet") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError, OverflowError) as error:
        raise csv_problem(error, data.uri) from None
    check_header(io.BytesIO(raw), data.uri)
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes surplus fields for an index
        raise refuse(data.uri, "has rows with more fields than its header", "correct the header")
    return frame


def csv_problem(error: Exception, uri: str) -> BadInput:
    """What pandas could not read, by line, without its message, which may hold a cell."""
    line = re.search(r"line (\d+)", str(error))
    place = f" (line {line.group(1)})" if line else ""
    return refuse(uri, f"is not a comma-separated table with a header{place}", "correct the file")


def check_header(source: io.BytesIO | Path, uri: str) -> None:
    """Raises BadInput where two columns have the same name, which pandas would have changed. It is said by place, as
    without a header these are cells."""
    try:
        header = pd.read_csv(source, encoding="utf-8-sig", compression=None, header=None, nrows=1, dtype=str)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError, OverflowError) as error:
        raise csv_problem(error, uri) from None
    names = header.iloc[0].dropna()
    if names.duplicated().any():
        name = names[names.duplicated()].iloc[0]
        places = " and ".join(str(int(str(k)) + 1) for k in names.index[names == name][:2])
        raise refuse(uri, f"columns {places} have the same name", "rename one, or give the table a header")


def _parquet(raw: bytes, data: DataSpec, max_bytes: int) -> pd.DataFrame:
    fix = "write it again as Parquet with plain columns"
    try:
        file = pq.ParquetFile(io.BytesIO(raw))
        meta = file.metadata
        unpacked = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
        if meta.num_rows * max(1, meta.num_columns) > MAX_CELLS or unpacked > MAX_EXPANSION * max_bytes:
            raise refuse(data.uri, "is too large once it is unpacked", "sample it, or drop columns")
        return file.read().to_pandas(ignore_metadata=True, strings_to_categorical=False)
    except (pa.ArrowException, ValueError, TypeError, OSError, NotImplementedError):
        raise refuse(data.uri, "is not a readable Parquet file", fix) from None
