"""A web server on this machine that serves a folder and fails by script; it counts what it does."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Asked:
    """A request: `again` counts the earlier ones of the same path and range."""

    method: str
    path: str
    query: str
    byte_range: tuple[int, int] | None
    again: int


Script = Callable[[Asked], str | None]

FAULTS = ("slow", "reset", "500", "503", "truncated", "reset-midway", "long", "other-range", "hang")
"""What passes: after each of these another try gets its bytes."""


class FaultyServer:
    """Serves `folder` at `url`; `script` says what goes wrong with a request, None for nothing."""

    def __init__(self, folder: Path, script: Script = lambda asked: None) -> None:
        self.folder, self.script = folder, script
        self.asked: list[Asked] = []
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.num_unanswered = 0

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def count(self, suffix: str = "", *, ranges_only: bool = False) -> int:
        """Requests for paths that end so."""
        return sum(
            asked.path.endswith(suffix) and not (ranges_only and asked.byte_range is None)
            for asked in self.asked
        )

    def note(self, method: str, target: str, header: str | None) -> Asked:
        parts = urlsplit(target)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", header or "")
        byte_range = (int(found[1]), int(found[2]) + 1) if found else None
        with self.lock:
            before = Counter((asked.path, asked.byte_range) for asked in self.asked)
            again = before[parts.path, byte_range]
            asked = Asked(method, parts.path, parts.query, byte_range, again)
            self.asked.append(asked)
        return asked


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each small answer takes 40 ms
    owner: FaultyServer

    def log_message(self, format: str, *args: Any) -> None:
        """The console stays quiet."""

    def do_HEAD(self) -> None:
        self.owner.note("HEAD", self.path, None)
        self.refuse(405)

    def do_GET(self) -> None:
        asked = self.owner.note("GET", self.path, self.headers.get("Range"))
        fault = self.owner.script(asked)
        if fault in ("reset", "hang", "slow"):
            self.interrupt(fault)
        if fault == "reset" or (fault == "hang" and self.close_connection):
            return
        if fault is not None and fault.isdecimal():
            self.refuse(int(fault))
        elif fault is not None and fault.startswith("to:"):
            self.refuse(302, Location=fault.removeprefix("to:"))
        else:
            self.serve(asked, fault)

    def interrupt(self, fault: str) -> None:
        if fault == "slow":
            self.owner.ended.wait(0.1)
        elif fault == "hang":
            self.owner.ended.wait(10)
            self.close_connection = True
        else:
            self.abort()

    def abort(self) -> None:
        """The connection is reset, as by a router that forgot it."""
        self.close_connection = True
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def refuse(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def serve(self, asked: Asked, fault: str | None) -> None:
        path = self.owner.folder / asked.path.lstrip("/")
        if not path.is_file():
            return self.refuse(404)
        content = path.read_bytes()
        if asked.byte_range is None or fault in ("whole", "whole-unsized"):
            return self.send_whole(content, sized=fault != "whole-unsized")
        start, stop = asked.byte_range[0], min(asked.byte_range[1], len(content))
        if start >= len(content):
            return self.refuse(416, Content_Range=f"bytes */{len(content)}")
        data = content[start:stop]
        if fault == "long":
            data += b"more"
        if fault == "other-range":
            start, stop = start + 1, stop + 1
        if fault == "damaged":
            data = bytes([data[0] ^ 1]) + data[1:]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(data)))
        if fault == "gzip":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.send_body(data, fault)

    def send_body(self, data: bytes, fault: str | None) -> None:
        if fault not in ("truncated", "reset-midway"):
            self.wfile.write(data)
            return
        self.wfile.write(data[: len(data) // 2])
        self.close_connection = True
        if fault == "reset-midway":
            self.abort()

    def send_whole(self, content: bytes, *, sized: bool) -> None:
        self.send_response(200)
        if sized:
            self.send_header("Content-Length", str(len(content)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)


def first_try(fault: str) -> Script:
    """Every range fails once in this way."""
    return lambda asked: fault if asked.byte_range and not asked.again else None
