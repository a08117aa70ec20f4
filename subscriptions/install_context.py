"""Whom an event came from: the account and install that its API key belongs to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InstallContext:
    """What a handler knows about the sender.

    ``account`` is the partner's own identifier of its customer. ``install_id`` and the three fields after it are
    empty when the customer pasted a key by hand instead of clicking the button.
    """

    account: str
    component: str
    install_id: str | None = None
    workspace_name: str | None = None
    source_name: str | None = None
    status: str | None = None
