"""How Segment reads a partner's answer, and when it tries again (contract 5.6, 5.7)."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox.switches import Switches

MOST_ATTEMPTS = 10
RETRY_WINDOW_SECONDS = 240 * 60
FIRST_RETRY_SECONDS = 15

DeliveryState = Literal["awaiting_scheduling", "executing", "succeeded", "awaiting_retry", "discarded", "filtered"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt came to, with the code that Event Delivery shows for it."""

    state: DeliveryState
    code: str


DELIVERED = Outcome("succeeded", "delivered")


def outcome_of_status(status: int, switches: Switches, dice: random.Random) -> Outcome:
    """Judge a status code."""
    if 200 <= status < 300:
        return DELIVERED
    if status == 429:
        return Outcome("awaiting_retry", "errors.awaiting-retry.429")
    if status in {400, 401, 403}:
        return Outcome("discarded", f"errors.discarded.{status}")
    choice = "no"
    if status in {408, 423}:
        choice = switches.retry_408_and_423
    elif status == 501:
        choice = switches.retry_501
    elif status >= 505:
        choice = switches.retry_505_and_up
    elif status >= 500:
        choice = "yes"
    if choice == "yes" or (choice == "random" and dice.random() < 0.5):
        return Outcome("awaiting_retry", f"errors.awaiting-retry.{'5xx' if status >= 500 else status}")
    return Outcome("discarded", "UNSUPPORTED_EVENT_TYPE" if status == 501 else str(status))


def outcome_of_error(error: Exception) -> Outcome:
    """Judge an attempt that got no answer: it is always tried again."""
    return Outcome("awaiting_retry", f"errors.awaiting-retry.{_error_code(error)}")


def _error_code(error: Exception) -> str:
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return "ECONNABORTED"
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "INTERNAL"
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return "EAI_AGAIN" if cause.errno == socket.EAI_AGAIN else "ENOTFOUND"
        if isinstance(cause, ConnectionRefusedError):
            return "ECONNREFUSED"
    if isinstance(error, httpx.ConnectError):
        return "EHOSTUNREACH"
    if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
        return "ECONNRESET"
    return "INTERNAL"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__ or error.__context__


def retry_delay(attempts_made: int, dice: random.Random) -> float:
    """Sandbox seconds to wait after this many attempts: 15 s doubling to 64 min, each times 0.5 to 1.5."""
    return FIRST_RETRY_SECONDS * 2.0 ** (attempts_made - 1) * dice.uniform(0.5, 1.5)
