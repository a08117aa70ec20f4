"""One address for every sender: picks who receives a delivery before anything of it is read."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from enable_with_segment.subscriptions.receiving.body import Receive
from enable_with_segment.subscriptions.receiving.exchange import Scope, Send, path_below_mount

Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_SIGNED_BASIC = tuple(
    base64.b64encode(blank + b"ewh_")[: (len(blank) + 4) * 8 // 6]
    for blank in (b"", b" ", b"\t", b"\n", b"\r\n", "\u00a0".encode())
)
"""What base64 of a key with a signing secret begins with (``api_key_format.SIGNED_PREFIX``), pasted blanks included."""


class Endpoint:
    """Hands signed deliveries to one application and all others to another."""

    def __init__(self, webhook: Application, signed_webhook: Application) -> None:
        self._webhook = webhook
        self._signed_webhook = signed_webhook

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        application = self._signed_webhook if is_signed(scope) else self._webhook
        return application(scope, receive, send)


def is_signed(scope: Scope) -> bool:
    """Tell whether a delivery has to be signed: its key stands in the path, or is of that kind in the Basic header."""
    if scope["type"] != "http":
        return False
    if "/" in path_below_mount(scope):
        return True
    return holds_signed_key(value for name, value in scope["headers"] if name == b"authorization")


def holds_signed_key(authorizations: Iterable[bytes]) -> bool:
    """Tell whether one of these Authorization headers holds a key with a signing secret."""
    for value in authorizations:
        if value[:6].lower() == b"basic " and value[6:].lstrip().startswith(_SIGNED_BASIC):
            return True
    return False
