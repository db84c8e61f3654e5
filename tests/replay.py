"""A real HTTP server on a local port that answers what a test or the demo tells it to."""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlsplit

DRIP_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer of the source.

    Attributes:
        body: the bytes as they travel; Content-Length always speaks of the whole of it.
        etag: sent as ETag; a request whose If-None-Match equals it is answered 304 without a body.
        last_modified: sent as Last-Modified; likewise for If-Modified-Since.
        delay: seconds before the first byte.
        cut_after: the connection is closed after so many bytes of the body.
        drip: seconds between pieces of 16 bytes.
        chunked: sent in chunks, without Content-Length.
        announces: what Content-Length says in place of the truth.
    """

    status: int = 200
    body: bytes = b""
    content_type: str | None = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    etag: str | None = None
    last_modified: str | None = None
    delay: float = 0
    cut_after: int | None = None
    drip: float | None = None
    chunked: bool = False
    announces: int | None = None

    @classmethod
    def gzipped(cls, body: bytes, *, etag: str | None = None) -> Self:
        """Answer as servers do that compress on the way: Content-Encoding says so."""
        return cls(body=gzip.compress(body, mtime=0), headers={"Content-Encoding": "gzip"}, etag=etag)

    @classmethod
    def redirect(cls, location: str, *, status: int = 302) -> Self:
        """Send the client elsewhere."""
        return cls(status=status, headers={"Location": location}, content_type=None)


@dataclass(frozen=True)
class Request:
    """What a client asked, and the status that it was given."""

    target: str
    headers: Mapping[str, str]
    status: int


class Replay:
    """A source on 127.0.0.1: each path gives its answers in turn, and the last one from then on.

    >>> with Replay() as source:
    ...     url = source.answer("/feed.json", Answer(body=b"{}"))
    """

    def __init__(self, *, tls: SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self._answers: dict[str, list[Answer]] = {}
        self._behaviours: dict[str, Callable[[str], Answer]] = {}
        self._programs: dict[str, Callable[[str, Mapping[str, str], bytes], Answer]] = {}
        self._lock = Lock()
        self._server = _Server(("127.0.0.1", 0), _Conversation)
        self._server.replay = self
        self._scheme = "https" if tls else "http"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), name="replay", daemon=True)

    @property
    def base(self) -> str:
        """The address of the server, without a path."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def answer(self, path: str, *answers: Answer) -> str:
        """Answer requests for the path so from now on; returns its address."""
        with self._lock:
            self._answers[path] = list(answers)
        return self.base + path

    def behave(self, path: str, behaviour: Callable[[str], Answer]) -> str:
        """Answer requests for the path as the function says, which is given path and query; returns its address."""
        self._behaviours[path] = behaviour
        return self.base + path

    def program(self, path: str, program: Callable[[str, Mapping[str, str], bytes], Answer]) -> None:
        """Answer requests for the path as the function says, which is given path and query, headers and body."""
        self._programs[path] = program

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening and give the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def next_answer(self, target: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Take the answer that is due, turned into a 304 where the client's validators fit, and record the request."""
        path = urlsplit(target).path
        with self._lock:
            if path in self._behaviours:
                answer = self._behaviours[path](target)
            elif path in self._programs:
                answer = self._programs[path](target, headers, body)
            else:
                line = self._answers.get(path, [Answer(status=404, content_type="text/plain", body=b"not here\n")])
                answer = line.pop(0) if len(line) > 1 else line[0]
            if _is_known(answer, headers):
                answer = Answer(status=304, etag=answer.etag, last_modified=answer.last_modified, content_type=None)
            self.requests.append(Request(target, headers, answer.status))
        return answer


def _is_known(answer: Answer, headers: Mapping[str, str]) -> bool:
    if answer.status != 200:  # only a page has validators
        return False
    if "if-none-match" in headers:  # it wins over the date (RFC 9110, section 13.2.2)
        return headers["if-none-match"] == answer.etag
    return answer.last_modified is not None and headers.get("if-modified-since") == answer.last_modified


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    replay: Replay

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless it is a client that was killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Conversation(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        replay = cast(_Server, self.server).replay
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        answer = replay.next_answer(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        time.sleep(answer.delay)
        try:
            self._send(answer)
        except ConnectionError:  # the client had enough; some tests are about just that
            self.close_connection = True

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        validators = {"ETag": answer.etag, "Last-Modified": answer.last_modified, "Content-Type": answer.content_type}
        for name, value in {**validators, **answer.headers}.items():
            if value is not None:
                self.send_header(name, value)
        if answer.status != 304:  # which has no body
            length = len(answer.body) if answer.announces is None else answer.announces
            framing = ("Transfer-Encoding", "chunked") if answer.chunked else ("Content-Length", str(length))
            self.send_header(*framing)
        self.end_headers()
        body = answer.body[: answer.cut_after]
        size = DRIP_BYTES if answer.drip is not None else 1 << 16
        for start in range(0, len(body), size):
            piece = body[start : start + size]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if answer.chunked else piece)
            self.wfile.flush()
            time.sleep(answer.drip or 0)
        if answer.cut_after is not None:
            self.close_connection = True
        elif answer.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature is http.server's
        """Keep quiet: tests look at ``Replay.requests``."""
