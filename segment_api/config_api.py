"""The Config API v1beta: the calls that a ``destination/{slug}`` scope allows (contract 2.6, 3).

Listing destinations is not among them, so there is no method for it (contract case 61).
"""

from __future__ import annotations

from typing import Any

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_api.answers import Answer, config_api_failure, config_api_object, json_object
from enable_with_segment.segment_api.catalog import CatalogDestination, read_catalog_destination
from enable_with_segment.segment_api.destination import (
    Destination,
    DestinationRequest,
    create_body,
    read_destination,
    update_body,
)
from enable_with_segment.segment_api.http import LARGEST_ANSWER, BeforeRequest, answer_of, client_options
from enable_with_segment.segment_api.names import path_of, source_of
from enable_with_segment.segment_api.rate_limiter import RateLimiter
from enable_with_segment.segment_api.urls import check_base_url

_LARGEST_ANSWER = 16 * LARGEST_ANSWER


class ConfigApi:
    """Calls the Config API with a token given per call. Nothing is repeated here.

    Every method raises :class:`~segment_api.errors.SegmentError`: ``Unauthenticated``, ``InsufficientScope``,
    ``NotFound``, ``AlreadyExists``, ``RateLimited``, ``InternalFailure``, ``SegmentUnavailable``,
    ``InvalidAnswer``, or plain ``ConfigApiError``.

    Args:
        base_url: with the version, such as ``https://platform.segmentapis.com/v1beta``.
        transport: a transport to use in place of the network, for tests.
        limiter: shared by everything in this process that calls the Config API.
        timeout: seconds for each request as a whole.
        before_request: asked before each request whether it may be sent.

    Raises:
        BaseUrlRefused: a base URL that tokens must not be sent to.
    """

    def __init__(
        self,
        base_url: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        limiter: RateLimiter | None = None,
        timeout: float = 10,
        before_request: BeforeRequest | None = None,
    ) -> None:
        self._base_url = check_base_url("SEGMENT_CONFIG_API_URL", base_url)
        self._limiter = limiter or RateLimiter()
        self._timeout = timeout
        self._http = httpx.AsyncClient(
            **client_options(transport, timeout, largest_answer=_LARGEST_ANSWER, before_request=before_request)
        )

    async def create_destination(self, token: str, request: DestinationRequest) -> Destination:
        """Create a destination on its source. An ``AlreadyExists`` wants confirming by a GET (contract 3.3)."""
        path = f"{path_of(source_of(request.name))}/destinations"
        answer = await self._send("POST", path, token, create_body(request))
        return read_destination(config_api_object(answer, creating=True))

    async def get_destination(self, token: str, name: str) -> Destination:
        """Read a destination."""
        return read_destination(config_api_object(await self._send("GET", path_of(name), token)))

    async def update_destination(self, token: str, request: DestinationRequest) -> Destination:
        """Change exactly what the request gives; settings it doesn't name keep their values."""
        answer = await self._send("PATCH", path_of(request.name), token, update_body(request))
        return read_destination(config_api_object(answer))

    async def delete_destination(self, token: str, name: str) -> None:
        """Ask to delete a destination. The answer's body is not looked at (contract 3.1), so read back what it did."""
        answer = await self._send("DELETE", path_of(name), token)
        failure = config_api_failure(answer, json_object(answer), any_body=True)
        if failure is not None:
            raise failure

    async def get_catalog_destination(self, token: str, slug: str) -> CatalogDestination:
        """Read a catalog entry. Whether a destination scope may is not known: tolerate a refusal (Appendix A 8)."""
        answer = await self._send("GET", path_of(f"catalog/destinations/{slug}"), token)
        return read_catalog_destination(config_api_object(answer))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _send(self, method: str, path: str, token: str, body: dict[str, Any] | None = None) -> Answer:
        await self._limiter.acquire()
        call = self._http.request(
            method, f"{self._base_url}/{path}", headers={"Authorization": f"Bearer {token}"}, json=body
        )
        return await answer_of(call, within=self._timeout, what="Segment's Config API")
