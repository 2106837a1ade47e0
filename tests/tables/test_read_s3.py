"""s3fs against a small HTTP server that answers S3's HEAD and ranged GET: paths and errors, not S3 itself."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cloudlinkup.errors import BadInput, Unavailable
from cloudlinkup.tables.read import read_table
from cloudlinkup.types import DataSpec

BODY = b"a,b\n" + b"1,2\n" * 25


class Bucket(BaseHTTPRequestHandler):
    def log_message(self, format, *args):
        pass

    def do_HEAD(self):
        self.answer(send=False)

    def do_GET(self):
        self.answer(send=True)

    def answer(self, send):
        path = self.path.split("?")[0]
        self.server.seen.append(self.headers.get("Authorization", ""))  # type: ignore[attr-defined]
        if path != "/bucket/table.csv":
            self.send_response(403 if "secret" in path else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        span, body, start = self.headers.get("Range"), BODY, "0"
        if span:
            start, _, end = span.removeprefix("bytes=").partition("-")
            body = BODY[int(start) : int(end) + 1 if end else None]
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"x"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        if span:
            self.send_header("Content-Range", f"bytes {start}-{int(start) + len(body) - 1}/{len(BODY)}")
        self.end_headers()
        if send:
            self.wfile.write(body)


@pytest.fixture
def bucket(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-name")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-word")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def spec(uri):
    return DataSpec(uri=uri, format="csv", label="b")


async def test_an_object_is_read_with_the_environments_credentials(bucket):
    frame = await read_table(spec("s3://bucket/table.csv"), ())
    assert frame.shape == (25, 2)
    assert all("Credential=key-name/" in seen for seen in bucket.seen) and bucket.seen
    with pytest.raises(BadInput, match="larger"):
        await read_table(spec("s3://bucket/table.csv"), (), max_bytes=len(BODY) - 1)


async def test_what_is_missing_refused_or_away_is_told_apart(bucket, monkeypatch):
    with pytest.raises(BadInput, match="no such object"):
        await read_table(spec("s3://bucket/none.csv"), ())
    with pytest.raises(BadInput, match="access is refused") as caught:
        await read_table(spec("s3://bucket/secret.csv"), ())
    assert "secret-word" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="s3 did not answer"):
        await read_table(spec("s3://bucket/table.csv"), ())
