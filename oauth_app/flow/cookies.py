"""The cookies of the flow: which browser opened a connect link, and which one an authorization belongs to.

The browser that a flow was started in is the only one with the flow's cookie, and the cookie's signature shows without
a look at a store that it is ours. So a callback that was made up is recognised before it costs anything.

The browser that opened a connect link is known by a cookie of its own. The state of a flow is derived from both, so
that the same browser, pressing the button twice, comes to the same authorization; nobody else can compute it.
"""

from __future__ import annotations

from enable_with_segment.db.control.flow_states import digest
from enable_with_segment.db.signer import Signer

BROWSER = "segment_connect"
"""The name of the cookie of a browser that opened a connect link."""

_PREFIX = "segment_flow_"


def cookie_name(state: str) -> str:
    """Return the name of a flow's own cookie, so that two tabs don't take each other's."""
    return _PREFIX + digest(state)[:16]


class FlowCookies:
    """Makes the values of these cookies, and recognises them.

    Args:
        secret: 32 bytes, the same in every process (``db.control.service_secrets``).
    """

    def __init__(self, secret: bytes) -> None:
        self._signer = Signer(secret, "flow")
        self._states = Signer(secret, "state of a connect link")
        self._randoms = Signer(secret, "cookie of a connect link")

    def make(self, state: str, random: str) -> str:
        """Return the cookie of a flow; ``random`` is what makes it a secret."""
        return f"{random}.{self._signer.sign(state, random)}"

    def is_ours(self, state: str, cookie: str) -> bool:
        """Return True if we made a cookie for this very state. What became of the flow is not looked at."""
        random, _, signature = cookie.rpartition(".")
        return self._signer.verify(signature, state, random)

    def of_press(self, link: str, browser: str, number: int) -> tuple[str, str]:
        """Return state and cookie of the flow that a browser starts when it presses a connect link's button.

        Args:
            link: the link's token.
            browser: the value of the cookie of the browser that opened it.
            number: counts the flows that this browser starts with the link, from 1.
        """
        state = self._states.sign(link, browser, number)
        return state, self.make(state, self._randoms.sign(state, browser))
