"""Rate limits, mostly per client: token buckets in this process, in bounded memory (OA-24).

A client is the address at the other end of the socket; behind a proxy, the address that the proxy names, but only if
``TRUSTED_PROXIES`` lists the proxy. Anybody can write an ``X-Forwarded-For``.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
MonotonicClock: TypeAlias = Callable[[], float]

_MOST_CLIENTS = 20_000
_IPV6_CUSTOMER_PREFIX = 64


class Purpose(StrEnum):
    """What is limited apart from each other."""

    CONNECT = "connect"
    CALLBACK = "callback"
    MANUAL_KEY = "manual_key"
    STATUS = "status"
    LOGIN = "login"
    API = "api"


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` requests at once, and ``per_second`` more in every second."""

    burst: int
    per_second: float


RATES = {
    Purpose.CONNECT: Rate(burst=300, per_second=5),
    Purpose.CALLBACK: Rate(burst=300, per_second=5),
    Purpose.MANUAL_KEY: Rate(burst=20, per_second=0.2),
    Purpose.STATUS: Rate(burst=300, per_second=5),
    Purpose.LOGIN: Rate(burst=20, per_second=0.2),
    Purpose.API: Rate(burst=500, per_second=50),
}


class TokenBuckets:
    """One bucket for each client; when there are too many clients, the one that was quiet longest is forgotten."""

    def __init__(self, rate: Rate, *, most: int = _MOST_CLIENTS, clock: MonotonicClock = time.monotonic) -> None:
        self._rate = rate
        self._most = most
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float | None:
        """Take a token: ``None`` if there was one, otherwise the seconds until there is."""
        now = self._clock()
        left, at = self._buckets.pop(client, (float(self._rate.burst), now))
        left = min(float(self._rate.burst), left + (now - at) * self._rate.per_second)
        allowed = left >= 1
        self._buckets[client] = (left - 1 if allowed else left, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return None if allowed else (1 - left) / self._rate.per_second

    def __len__(self) -> int:
        return len(self._buckets)


class RateLimits:
    """The buckets of every purpose.

    Args:
        trusted_proxies: networks whose ``X-Forwarded-For`` is believed.
    """

    def __init__(self, trusted_proxies: Sequence[Network] = (), *, clock: MonotonicClock = time.monotonic) -> None:
        self._trusted = tuple(trusted_proxies)
        self._buckets = {purpose: TokenBuckets(rate, clock=clock) for purpose, rate in RATES.items()}

    def wait_seconds(self, purpose: Purpose, request: Request, *, bucket: str | None = None) -> int | None:
        """Count a request: ``None`` if it may go on, otherwise whole seconds for ``Retry-After``.

        Args:
            bucket: what the request is counted for, in place of its client.
        """
        if bucket is None:
            peer = "" if request.client is None else request.client.host
            bucket = client_of(peer, request.headers.getlist("x-forwarded-for"), self._trusted)
        wait = self._buckets[purpose].take(bucket)
        return None if wait is None else max(1, math.ceil(wait))


def client_of(peer: str, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str:
    """Return whom to count a request for.

    Walks ``X-Forwarded-For`` from its end, where our own proxies wrote, and stops at the first address that is not
    one of them. An IPv6 customer is counted by the /64 network that they have to themselves.
    """
    hops = [hop.strip() for line in forwarded_for for hop in line.split(",")]
    client = peer
    while _is_trusted(client, trusted) and hops:
        nearest = hops.pop()
        if _address(nearest) is None:
            break
        client = nearest
    address = _address(client)
    if address is None:
        return client[:100]
    if address.version == 6:
        return str(ipaddress.ip_network((address, _IPV6_CUSTOMER_PREFIX), strict=False))
    return str(address)


def limited(
    purpose: Purpose,
    endpoint: Callable[[Request], Awaitable[Response]],
    *,
    own_bucket: Callable[[Request], str | None] = lambda _: None,
) -> Callable[..., Awaitable[Response]]:
    """Wrap an endpoint so that a client that asks too often is told to wait.

    Args:
        own_bucket: names what a request proves to belong to, and is counted for; otherwise it is its client's.
    """

    async def counted(request: Request) -> Response:
        refused = too_often(purpose, request, bucket=own_bucket(request))
        return await endpoint(request) if refused is None else refused

    counted.__name__ = endpoint.__name__
    return counted


def too_often(purpose: Purpose, request: Request, *, bucket: str | None) -> Response | None:
    """Count a request, and return the answer that tells its client to wait if there are too many.

    Args:
        bucket: what the request proves to belong to, and is counted for; otherwise it is its client's.
    """
    limits: RateLimits = request.app.state.services.rate_limits
    wait = limits.wait_seconds(purpose, request, bucket=bucket)
    if wait is None:
        return None
    headers = {"Retry-After": str(wait), "Cache-Control": "no-store"}
    return PlainTextResponse(f"Too many requests. Please wait {wait} s.\n", status_code=429, headers=headers)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_trusted(text: str, trusted: Sequence[Network]) -> bool:
    address = _address(text)
    return address is not None and any(address.version == n.version and address in n for n in trusted)
