"""The Config API client at the edges of the network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_api.config_api import ConfigApi
from enable_with_segment.segment_api.errors import InvalidAnswer, NotFound, SegmentUnavailable
from enable_with_segment.segment_api.urls import BaseUrlRefused
from tests.segment_api.wire import CONFIG_API, DESTINATION, Wire, answering


def config_api(wire: httpx.AsyncBaseTransport, seconds: float = 10) -> ConfigApi:
    return ConfigApi(CONFIG_API, transport=wire, timeout=seconds)


async def test_an_answer_that_never_comes_is_not_waited_for() -> None:
    async def never(_: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(SegmentUnavailable, match="did not answer within"):
        await config_api(Wire(answering(never)), 0.02).get_destination("token", DESTINATION)


async def test_an_answer_that_drips_in_is_not_waited_for() -> None:
    class Dripping(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b" "
                await asyncio.sleep(0.001)

    wire = Wire(answering(), before=lambda _: httpx.Response(200, stream=Dripping()))
    with pytest.raises(SegmentUnavailable, match="did not answer within"):
        await config_api(wire, 0.03).get_destination("token", DESTINATION)


async def test_an_endless_answer_is_cut_off() -> None:
    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b" " * 65_536

    wire = Wire(answering(), before=lambda _: httpx.Response(200, stream=Endless()))
    with pytest.raises(InvalidAnswer, match="larger than"):
        await config_api(wire).get_destination("token", DESTINATION)


async def test_a_host_that_cannot_be_reached_is_unavailable() -> None:
    api = ConfigApi("http://127.0.0.1:1/v1beta")
    with pytest.raises(SegmentUnavailable, match="ConnectError"):
        await api.get_destination("token", DESTINATION)
    await api.aclose()


@pytest.mark.parametrize(
    "response", [Response(status_code=204), JSONResponse({}), PlainTextResponse("deleted"), JSONResponse([], 201)]
)
async def test_any_success_of_a_delete_will_do(response: Response) -> None:
    wire = Wire(answering(response))
    await config_api(wire).delete_destination("token", DESTINATION)
    assert wire.routes() == [f"DELETE /v1beta/{DESTINATION}"]


async def test_a_delete_that_fails_says_so() -> None:
    wire = Wire(answering(JSONResponse({"error": "gone", "code": 5}, 404)))
    with pytest.raises(NotFound):
        await config_api(wire).delete_destination("token", DESTINATION)


async def test_the_token_goes_into_the_header_of_each_call() -> None:
    wire = Wire(answering(JSONResponse({"name": DESTINATION})))
    await config_api(wire).get_destination("a.token", DESTINATION)
    assert wire.sent[0].headers["authorization"] == "Bearer a.token"
    assert wire.sent[0].headers["user-agent"].startswith("enable-with-segment")


def test_tokens_are_sent_to_no_unsafe_origin() -> None:
    with pytest.raises(BaseUrlRefused, match="SEGMENT_CONFIG_API_URL"):
        ConfigApi("http://platform.segmentapis.com/v1beta")
