"""One way to call Segment over HTTP: no redirects, small answers only, one deadline for the whole exchange.

Certificates are checked, proxies come from the environment as usual, and nothing is repeated here: whoever calls
knows what may be repeated.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeAlias

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_api.answers import Answer, retry_after_seconds
from enable_with_segment.segment_api.errors import InvalidAnswer, NotSent, SegmentUnavailable

LARGEST_ANSWER = 64 * 1024
"""Bytes of an answer that are read; every answer of the contract is far smaller."""


BeforeRequest: TypeAlias = Callable[[], Awaitable[None]]
"""Called before each request; what it raises is raised to the caller, and nothing is sent."""


def _user_agent() -> str:
    try:
        return f"enable-with-segment/{version('enable-with-segment')}"
    except PackageNotFoundError:
        return "enable-with-segment"


@functools.cache
def trusted() -> ssl.SSLContext:
    """Whose certificates are accepted, as HTTPX has it; loading them is slow, so it is done once for all clients."""
    return httpx.create_ssl_context()


def client_options(
    transport: httpx.AsyncBaseTransport | None,
    timeout: float,
    *,
    largest_answer: int = LARGEST_ANSWER,
    before_request: BeforeRequest | None = None,
) -> dict[str, Any]:
    """Return the options that every HTTPX client of ours is made with.

    Args:
        transport: a transport to use in place of the network, for tests.
        timeout: seconds for connecting, and for each read and write.
        largest_answer: bytes after which an answer is refused.
        before_request: asked before each request whether it may be sent.
    """

    async def ask(_request: httpx.Request) -> None:
        if before_request is not None:
            await before_request()

    async def limit(response: httpx.Response) -> None:
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"", "identity"}:
            raise InvalidAnswer("Segment compressed an answer that was asked for uncompressed")
        if isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = _LimitedStream(response.stream, largest_answer)

    return {
        "transport": transport,
        "verify": trusted(),
        "timeout": timeout,
        "follow_redirects": False,
        "headers": {"User-Agent": _user_agent(), "Accept": "application/json", "Accept-Encoding": "identity"},
        "event_hooks": {"request": [ask], "response": [limit]},
    }


async def answer_of(call: Awaitable[httpx.Response], *, within: float, what: str) -> Answer:
    """Wait for a response and reduce it to an :class:`Answer`.

    Args:
        within: seconds for the whole exchange, so that an answer that drips in cannot hold us.
        what: who is called, for the message.

    Raises:
        NotSent: no connection.
        SegmentUnavailable: no complete answer.
        InvalidAnswer: an answer that is too large or compressed.
    """
    try:
        async with asyncio.timeout(within):
            response = await call
    except TimeoutError:
        raise SegmentUnavailable(f"{what} did not answer within {within:g} s") from None
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise NotSent(f"{what} could not be reached ({type(error).__name__})") from None
    except httpx.HTTPError as error:
        # The exception's own text can hold parts of a malformed answer.
        raise SegmentUnavailable(f"{what} could not be reached ({type(error).__name__})") from None
    return to_answer(response)


def to_answer(response: httpx.Response) -> Answer:
    """Reduce a response that has been read."""
    return Answer(response.status_code, response.content, retry_after_seconds(response.headers.get("retry-after")))


class _LimitedStream(httpx.AsyncByteStream):
    """A response's stream that ends in an error when it grows too large."""

    def __init__(self, stream: httpx.AsyncByteStream, largest: int) -> None:
        self._stream = stream
        self._largest = largest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        async for part in self._stream:
            received += len(part)
            if received > self._largest:
                raise InvalidAnswer(f"Segment's answer is larger than {self._largest} bytes")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
