"""An HTTP transport that looks up a host itself, checks the addresses, and connects to the very address it checked."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from enable_with_segment.http_client import httpx
from enable_with_segment.subscriptions.sinks.address_guard import Network, check_addresses

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]

_MOST_HOSTS = 16


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host.

    Raises:
        OSError: it cannot be looked up.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends requests to public addresses only, redirects included, since each one passes through here.

    A name that resolves differently a moment later changes nothing: the connection goes to the address that was
    checked, while TLS and the ``Host`` header go on using the name.

    Args:
        allowed: networks that may be reached although they are not public.
        tls: which certificates are trusted; the public authorities when left out.
    """

    def __init__(
        self, allowed: Sequence[Network] = (), *, tls: ssl.SSLContext | None = None, resolve: Resolve = resolve
    ) -> None:
        self._allowed = tuple(allowed)
        self._tls = tls
        self._resolve = resolve
        # One pool for each name: a connection is reused by address, and TLS was set up for a name.
        self._pools: dict[str, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            AddressRefused: the host is not public.
            httpx.ConnectError: the host cannot be looked up.
        """
        host = request.url.host
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        try:
            addresses = await self._resolve(host, port)
        except OSError as error:
            raise httpx.ConnectError(f"{host} cannot be looked up", request=request) from error
        address = check_addresses(host, addresses, self._allowed)
        checked = httpx.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )
        return await self._pool(host).handle_async_request(checked)

    async def aclose(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.aclose()
        self._pools.clear()

    def _pool(self, host: str) -> httpx.AsyncHTTPTransport:
        pool = self._pools.get(host)
        if pool is None:
            if len(self._pools) >= _MOST_HOSTS:
                raise httpx.ConnectError("too many redirects to different hosts")
            pool = self._pools[host] = httpx.AsyncHTTPTransport(
                verify=True if self._tls is None else self._tls, trust_env=False
            )
        return pool
