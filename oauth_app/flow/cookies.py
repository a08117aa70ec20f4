"""The cookie of an authorization flow: it belongs to one state, and shows that we made it without a look at a store.

Nobody but the browser that a flow was started in has its cookie. So a callback that brings it can be told from one
that somebody made up, before it costs anything.
"""

from __future__ import annotations

from enable_with_segment.db.control.flow_states import digest
from enable_with_segment.db.signer import Signer

_PREFIX = "segment_flow_"


def cookie_name(state: str) -> str:
    """The name of a flow's own cookie, so that two tabs don't take each other's."""
    return _PREFIX + digest(state)[:16]


class FlowCookies:
    """Makes the values of these cookies, and recognises them.

    Args:
        secret: 32 bytes, the same in every process (``db.control.service_secrets``).
    """

    def __init__(self, secret: bytes) -> None:
        self._signer = Signer(secret, "flow")

    def make(self, state: str, random: str) -> str:
        """Return the cookie of a flow; ``random`` is what makes it a secret."""
        return f"{random}.{self._signer.sign(state, random)}"

    def is_ours(self, state: str, cookie: str) -> bool:
        """Tell whether we made a cookie for this very state. What became of the flow is not looked at."""
        random, _, signature = cookie.rpartition(".")
        return self._signer.verify(signature, state, random)
