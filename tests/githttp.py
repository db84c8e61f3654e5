"""A git repository over real HTTP: git's own program for that, ``http-backend``, behind the server of a test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from email.parser import BytesParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.replay import Answer, Replay

REFS, PACK = "/info/refs", "/git-upload-pack"
"""What git asks for below the address of a repository: first what there is, then the objects."""

# What CGI calls them; without the version of the protocol git speaks an old one.
_HEADERS = {
    "content-type": "CONTENT_TYPE",
    "content-length": "CONTENT_LENGTH",
    "content-encoding": "HTTP_CONTENT_ENCODING",
    "git-protocol": "GIT_PROTOCOL",
}


def serve_git(
    source: Replay, path: str, repository: Path, *, spoil: Callable[[Answer, bool], Answer] = lambda good, _: good
) -> str:
    """Serve the bare repository below the path and return its address; skip the test where git has no program for it.

    Arguments:
        spoil: is given each answer, and whether it holds objects; returns what is sent in its place.
    """
    backend = Path(subprocess.check_output(["git", "--exec-path"], text=True).strip()) / "git-http-backend"
    if not backend.exists():
        pytest.skip("git has no http-backend here")

    def answer(target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        asked = urlsplit(target)
        called = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
        called |= {cgi: headers[name] for name, cgi in _HEADERS.items() if name in headers}
        called |= {
            "GIT_HTTP_EXPORT_ALL": "",
            "PATH_TRANSLATED": str(repository) + asked.path.removeprefix(path),
            "QUERY_STRING": asked.query,
            "REQUEST_METHOD": "POST" if body else "GET",
        }
        said = subprocess.run([backend], env=called, input=body, stdout=subprocess.PIPE, check=True).stdout
        head, _, content = said.partition(b"\r\n\r\n")
        told = BytesParser().parsebytes(head + b"\r\n\r\n")
        status = int(told.get("Status", "200").split()[0])
        return spoil(Answer(status=status, body=content, content_type=told["Content-Type"]), b"packfile\n" in content)

    for each in (REFS, PACK):
        source.program(path + each, answer)
    return source.base + path
