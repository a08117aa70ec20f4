"""How provisioning comes by an install's access token."""

from __future__ import annotations

from typing import Protocol

from enable_with_segment.components.provisioning_reasons import Reason
from enable_with_segment.segment_api.errors import SegmentUnavailable


class AccessLost(Exception):
    """Segment gives no more tokens for this install. Its record says so already; trying again is of no use.

    Attributes:
        reason: why, as stored with the install.
    """

    def __init__(self, install_id: str, reason: Reason) -> None:
        super().__init__(f"no access token for {install_id}: {reason.value}")
        self.install_id = install_id
        self.reason = reason


class AccessHeldBack(SegmentUnavailable):
    """Segment refused this install, or failed us, so often that it is left alone for ``retry_after`` seconds."""


class AccessTokens(Protocol):
    """Hands out access tokens, refreshed when needed."""

    async def access_token(self, install_id: str, *, rejected: str | None = None) -> str:
        """Return a token to use at once.

        Args:
            rejected: a token that Segment has just refused; another one is returned.

        Raises:
            AccessLost: the install is gone, or refresh was refused.
            AccessHeldBack: Segment was asked too often lately; it was not asked now.
            enable_with_segment.segment_api.errors.SegmentUnavailable: not now.
            KeyError: no such install.
        """
        ...

    async def note_refused(self, install_id: str) -> None:
        """Record that Segment refused even a token that was just renewed; it is asked again after a while."""
        ...
