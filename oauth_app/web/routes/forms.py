"""Reading a small form that a page of ours sent."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

LARGEST_FORM = 16 * 1024
BODY_SECONDS = 10.0
"""How long the body of a form may take to arrive."""
_MOST_FIELDS = 20


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a url-encoded form, the first value of each; anything else reads as an empty form.

    Raises:
        HTTPException: 408, the body did not arrive in time.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        return {}
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > LARGEST_FORM:
                    return {}
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except TimeoutError:
        raise HTTPException(408, "The form did not arrive in time.", {"Connection": "close"}) from None
    except (ClientDisconnect, ValueError):
        return {}
    return dict(reversed(pairs))
