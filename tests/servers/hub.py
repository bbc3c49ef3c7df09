"""A stand-in for the Hugging Face hub: its API as the worker uses it, over real HTTP, as good or as bad as told."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"
RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class WebServer(ThreadingHTTPServer):
    """Keeps what it was asked: path and ``Authorization`` of each request."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.asked: list[tuple[str, str | None]] = []
        self.ranges = True

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        self.answer(unquote(urlsplit(self.path).path))

    def answer(self, path: str) -> None:
        raise NotImplementedError

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, content: bytes) -> None:
        match = RANGE.fullmatch(self.headers.get("Range", "")) if self.server.ranges else None
        if match is None:
            self.reply(200, content)
            return
        start, end = int(match[1]), min(int(match[2]) + 1, len(content))
        self.reply(206, content[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(content)}")


class Cdn(WebServer):
    """Where the hub sends those who ask for large files: another origin, which must not see their tokens."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(CdnHandler)
        self.files = files


class CdnHandler(Handler):
    server: Cdn

    def answer(self, path: str) -> None:
        self.send_file(self.server.files[path.removeprefix("/")])


class Hub(WebServer):
    """The repository ``tests/model`` at REVISION. Large files are those that end in ``.safetensors``."""

    def __init__(self, files: dict[str, bytes], *, token: str | None = None, cdn: Cdn | None = None) -> None:
        super().__init__(HubHandler)
        self.files = files
        self.token = token
        self.cdn = cdn
        self.listing: list[dict[str, object]] = [entry_of(name, content) for name, content in files.items()]
        self.page = 1000  # entries

    @property
    def uri(self) -> str:
        return f"hf://tests/model@{REVISION}"


def entry_of(name: str, content: bytes) -> dict[str, object]:
    """A file's entry in a listing."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    entry: dict[str, object] = {"type": "file", "oid": git, "size": len(content), "path": name}
    if name.endswith(".safetensors"):
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
    return entry


class HubHandler(Handler):
    server: Hub

    def answer(self, path: str) -> None:
        token = self.server.token
        if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
            self.reply(401, b'{"error": "Invalid username or password."}')
        elif path.startswith(f"/api/models/tests/model/tree/{REVISION}"):
            self._list(path.removeprefix(f"/api/models/tests/model/tree/{REVISION}").removeprefix("/"))
        elif path.startswith(f"/tests/model/resolve/{REVISION}/"):
            self._file(path.removeprefix(f"/tests/model/resolve/{REVISION}/"))
        else:
            self.reply(404)

    def _list(self, folder: str) -> None:
        page = int(dict(part.split("=") for part in urlsplit(self.path).query.split("&")).get("cursor", "0"))
        entries = [entry for entry in self.server.listing if str(entry["path"]).startswith(folder)]
        shown = entries[page * self.server.page : (page + 1) * self.server.page]
        headers = {"Content_Type": "application/json"}
        if (page + 1) * self.server.page < len(entries):
            path = urlsplit(self.path).path
            headers["Link"] = f'<{self.server.endpoint}{path}?recursive=true&cursor={page + 1}>; rel="next"'
        self.reply(200, json.dumps(shown).encode(), **headers)

    def _file(self, name: str) -> None:
        content = self.server.files.get(name)
        if content is None:
            self.reply(404)
        elif self.server.cdn is not None and name.endswith(".safetensors"):
            self.reply(302, Location=f"{self.server.cdn.endpoint}/{name}?X-Amz-Signature=of-this-url")
        else:
            self.send_file(content)


def files_of(folder: Path) -> dict[str, bytes]:
    """What a hub or a CDN serves: the content of each file of ``folder`` by its name."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }
