"""The ASGI application around all of the sandbox's routes: it records requests and applies scripted faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute
from starlette.types import Message, Receive, Scope, Send

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox.clock import timestamp
from enable_with_segment.segment_sandbox.faults import Fault
from enable_with_segment.segment_sandbox.state import State

CONTROL_PREFIX = "/_sandbox"
LARGEST_BODY = 8 * 1024 * 1024


class BodyTooLarge(ValueError):
    """A request body beyond what the sandbox will hold in memory."""


class SandboxApplication(Starlette):
    """Starlette, with a transcript and faults in front of everything except the control routes."""

    def __init__(
        self,
        state: State,
        routes: Sequence[BaseRoute],
        lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]],
    ) -> None:
        super().__init__(routes=routes, lifespan=lifespan)
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or f"{scope['path']}/".startswith(f"{CONTROL_PREFIX}/"):
            await super().__call__(scope, receive, send)
            return
        try:
            body = await _read(receive)
        except BodyTooLarge:
            await PlainTextResponse("Payload Too Large\n", 413)(scope, receive, send)
            return
        await self._answer(scope, body, receive, send)

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        state = self._state
        record = state.transcript.add(
            time=timestamp(state.now()),
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode(errors="replace"),
            headers=Headers(scope=scope).items(),
            body=body,
            profile=state.profile,
        )

        async def send_and_record(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)

        fault = state.faults.take(scope["method"], scope["path"])
        if fault is None:
            await super().__call__(scope, _replay(body, receive), send_and_record)
            return
        record.fault = True
        if fault.after or not fault.replaces_answer:
            answer = send_and_record if not fault.replaces_answer else _discard
            if not fault.after:
                await asyncio.sleep(fault.delay_seconds)
            await super().__call__(scope, _replay(body, receive), answer)
        if fault.replaces_answer:
            await asyncio.sleep(fault.delay_seconds)
        if fault.reset:
            await _break_connection(send)
        elif fault.replaces_answer:
            await _faulty_response(fault)(scope, receive, send_and_record)


async def _read(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(chunks)
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > LARGEST_BODY:
            raise BodyTooLarge
        if not message.get("more_body", False):
            return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands out the body that was read already, and then passes on what comes."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


async def _discard(message: Message) -> None:
    """A `send` for an answer that gets lost."""


def _faulty_response(fault: Fault) -> Response:
    headers: Mapping[str, str] = fault.headers
    if fault.malformed_json:
        return Response('{"error": "cut off in the mid', fault.status or 200, headers, "application/json")
    return Response(fault.body, fault.status or 200, headers, fault.content_type)


async def _break_connection(send: Send) -> None:
    """Reset the caller's connection. In process there is none, so the caller's client gets the error itself."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if not isinstance(transport, asyncio.Transport):
        raise httpx.ReadError("The sandbox reset the connection.")
    transport.abort()
    await asyncio.sleep(0)
