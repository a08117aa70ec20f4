"""Reading a small form that a page of ours sent."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

LARGEST_FORM = 16 * 1024
_MOST_FIELDS = 20


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a url-encoded form, the first value of each; anything else reads as an empty form."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        return {}
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_FORM:
                return {}
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except (ClientDisconnect, ValueError):
        return {}
    return dict(reversed(pairs))
