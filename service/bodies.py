"""Reading what a caller sends: JSON of a known shape and a bounded size."""

from __future__ import annotations

from typing import TypeVar

import falcon
import msgspec

from service.problems import Problem

LONGEST = 16 * 1024

T = TypeVar("T")


def read_json(req: falcon.Request, shape: type[T]) -> T:
    """Return the request's body in this shape.

    Raises:
        Problem: 413, it is longer than 16 KiB; 415, it is said to be something else than JSON; 400, it is not JSON or
            not of this shape.
    """
    length = req.content_length
    if length is not None and length > LONGEST:
        raise _too_long()
    if req.content_type is not None and falcon.parse_header(req.content_type)[0].lower() != falcon.MEDIA_JSON:
        raise Problem(415, "the body should be JSON, with Content-Type: application/json")
    # A chunked body has no length; the server says whether its stream ends by itself.
    stream = req.stream if req.env.get("wsgi.input_terminated") else req.bounded_stream
    body = stream.read(LONGEST + 1)
    if len(body) > LONGEST:
        raise _too_long()
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise Problem(400, f"the body is not what is wanted here: {error}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Problem(400, "the body is not JSON") from None


def _too_long() -> Problem:
    return Problem(413, f"the body is longer than {LONGEST:,} bytes")
