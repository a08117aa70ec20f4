"""How much may be in hand at the same moment, by count and by bytes: less while the event loop cannot keep up.

What is too much is refused before its body is read, at a fraction of the cost of taking it. A count alone is not
enough for that: on a slow machine the same number of deliveries keeps the loop busy for longer than Segment waits
(contract 5.7). So the count shrinks while one turn of the loop takes too long, and grows back by itself.
"""

from __future__ import annotations

TURN_SECONDS = 0.5
"""What one turn of the event loop may take: a delivery takes part in a few of them until it is answered."""
_LEAST = 200
"""So many are always let in: when turns are long because the disk is slow, fewer events make no turn shorter."""


class Pressure:
    """What is in hand, and how much that may be.

    Args:
        most: deliveries at once, as long as turns are short.
        most_bytes: what their bodies may take together.
        body_bytes: the largest body there can be.
    """

    __slots__ = ("_body_bytes", "_bytes", "_highest", "_most_bytes", "most", "running")

    def __init__(self, most: int, *, most_bytes: int, body_bytes: int) -> None:
        self.running = 0
        self.most = most
        self._highest = most
        self._bytes = 0
        self._most_bytes = most_bytes
        self._body_bytes = body_bytes

    def admit(self, content_length: bytes | None, content_encoding: bytes | None) -> int | None:
        """Let a delivery in; returns what to hand to :meth:`leave`, or ``None`` when it is too much now.

        A body is counted by the length that it announces; one that announces none, or is packed, by the largest there
        can be.
        """
        if self.running >= self.most:
            return None
        if content_length is not None and content_encoding is None and content_length.isdigit():
            size = min(int(content_length[:20]), self._body_bytes)
        else:
            size = self._body_bytes
        if self._bytes + size > self._most_bytes and self.running:
            return None
        self.running += 1
        self._bytes += size
        return size

    def leave(self, size: int) -> None:
        """Take note that a delivery was answered."""
        self.running -= 1
        self._bytes -= size

    def turn_took(self, seconds: float) -> None:
        """Adapt to how long the event loop was busy with other things."""
        self.most = admissible(self.most, self._highest, seconds)


def admissible(most: int, highest: int, turn_seconds: float) -> int:
    """Return how many deliveries may be in hand after a turn of the event loop took so long.

    At most half as many after a long one, twice as many after a short one.
    """
    if turn_seconds > TURN_SECONDS:
        fewer = int(most * max(0.5, TURN_SECONDS / turn_seconds))
        return max(fewer, min(_LEAST, highest))
    if turn_seconds < TURN_SECONDS / 4:
        return min(most * 2, highest)
    return most
