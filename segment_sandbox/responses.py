"""JSON answers that hold whatever a caller once sent, text that is not valid Unicode included."""

from __future__ import annotations

from starlette.responses import JSONResponse

from enable_with_segment.segment_sandbox.jsontext import encode


class AnyJson(JSONResponse):
    """Like `JSONResponse`, but a lone surrogate is escaped where that would fail."""

    def render(self, content: object) -> bytes:
        return encode(content)
