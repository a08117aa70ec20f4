"""How much may be in hand at the same moment, by count and by bytes: less while the event loop cannot keep up.

What is too much is refused before its body is read, at a fraction of the cost of taking it. A count alone is not
enough for that: on a slow machine the same number of deliveries keeps the loop busy for longer than Segment waits
(contract 5.7). So the count shrinks while one turn of the loop takes too long, and grows back by itself. And while too
many events wait to be handled nothing is let in: that is a count of nothing, and costs no delivery a question more.

A sender who sends more than there is room for does not take it from the others: one may hold three times what is free,
places as well as bytes, so alone three quarters of everything, and whoever else comes finds room.
"""

from __future__ import annotations

from collections.abc import Callable

TURN_SECONDS = 0.25
"""What one turn of the event loop may take: a delivery takes part in a few of them until it is answered."""
_SHARE = 3
"""How many times what is free one sender may hold."""
_LEAST = 200
"""So many are always let in: when turns are long because the disk is slow, fewer events make no turn shorter."""


class _Share:
    """What one sender holds."""

    __slots__ = ("bytes", "deliveries")

    def __init__(self) -> None:
        self.deliveries = 0
        self.bytes = 0


class ConcurrencyLimit:
    """What is in hand, and how much that may be.

    Args:
        most: deliveries at once, as long as turns are short.
        most_bytes: what their bodies may take together.
        body_bytes: the largest body there can be.
    """

    __slots__ = (
        "_body_bytes",
        "_bytes",
        "_expected",
        "_highest",
        "_most_bytes",
        "_most_when_open",
        "_shares",
        "is_shut",
        "most",
        "running",
    )

    def __init__(self, most: int, *, most_bytes: int, body_bytes: int) -> None:
        self.running = 0
        self.is_shut = False
        self.most = self._most_when_open = most
        self._highest = most
        self._bytes = 0
        self._shares: dict[str, _Share] = {}
        self._expected = 0
        self._most_bytes = most_bytes
        self._body_bytes = body_bytes

    def acquire(
        self, content_length: bytes | None, content_encoding: bytes | None, sender: str | None = None
    ) -> int | None:
        """Let a delivery in; returns what to hand to :meth:`release`, or ``None`` when it is too much now.

        A body is counted by the length that it announces; one that announces none, or is packed, by the largest there
        can be.

        Args:
            sender: whoever it is from, by any name; nobody's share is counted without one.
        """
        size = self._size(content_length, content_encoding)
        share = self._shares.get(sender) if sender is not None else None
        if not self._is_room(self.most - self.running, size, share):
            return None
        self._enter(size, sender)
        return size

    def _enter(self, size: int, sender: str | None) -> None:
        self.running += 1
        self._bytes += size
        if sender is not None:
            share = self._shares.get(sender)
            if share is None:
                share = self._shares[sender] = _Share()
            share.deliveries += 1
            share.bytes += size

    @property
    def near_limit(self) -> bool:
        """Whether the next delivery may be too much: so cheap that it can be asked for each."""
        # One sender can hold no more than all that is in hand.
        places = self.most - self.running - self._expected
        left = self._most_bytes - self._bytes - self._body_bytes
        return self.running >= _SHARE * places or self._bytes > _SHARE * left

    def refuses(self, content_length: bytes | None, content_encoding: bytes | None, sender: str | None = None) -> bool:
        """Return True if :meth:`acquire` would return ``None`` after the expected deliveries."""
        size = self._size(content_length, content_encoding)
        share = self._shares.get(sender) if sender is not None else None
        return not self._is_room(self.most - self.running - self._expected, size, share)

    def _is_room(self, places: int, size: int, share: _Share | None) -> bool:
        if places <= 0:
            return False
        if not self.running:
            return True
        left = self._most_bytes - self._bytes - size
        return left >= 0 and _allows(share, places, left)

    def expect(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """Take note that somebody will ask to be let in, in the work that the event loop is given after this call.

        A loop first reads from all connections and then does the work of that, so without this a thousand deliveries
        that arrive together would all be told that there is room for one.

        Args:
            call_soon: the loop's; by what it is given here, what was expected is forgotten in the same turn.
        """
        if not self._expected:
            call_soon(self._expect_nobody)
        self._expected += 1

    def _expect_nobody(self) -> None:
        self._expected = 0

    def _size(self, content_length: bytes | None, content_encoding: bytes | None) -> int:
        is_plain = content_encoding is None or content_encoding in (b"", b"identity")
        if is_plain and content_length is not None and content_length.isdigit():
            return min(int(content_length[:20]), self._body_bytes)
        return self._body_bytes

    def release(self, size: int, sender: str | None = None) -> None:
        """Take note that a delivery was answered, of the sender that was named when it was let in."""
        self.running -= 1
        self._bytes -= size
        if sender is not None:
            share = self._shares[sender]
            share.deliveries -= 1
            share.bytes -= size
            if not share.deliveries:
                del self._shares[sender]

    def recognise(self, size: int, before: str, sender: str) -> bool:
        """Count a delivery that was let in as somebody else's: it is known by now whose it is.

        Returns:
            Whether that is within the share of theirs; if not, it is counted as before until it leaves.
        """
        self.release(size, before)
        places, left = self.most - self.running, self._most_bytes - self._bytes - size
        allowed = not self.running or _allows(self._shares.get(sender), max(places, 1), left)
        self._enter(size, sender if allowed else before)
        return allowed

    def turn_took(self, seconds: float) -> None:
        """Adapt to how long the event loop was busy with other things."""
        self._most_when_open = admissible(self._most_when_open, self._highest, seconds)
        if not self.is_shut:
            self.most = self._most_when_open

    def shut(self) -> None:
        """Let nothing in, however short turns are, until :meth:`open`; what is in hand goes on."""
        self.is_shut = True
        self.most = 0

    def open(self) -> None:
        """Let deliveries in again, as many as turns allow."""
        self.is_shut = False
        self.most = self._most_when_open


def _allows(share: _Share | None, places: int, left: int) -> bool:
    """Tell whether somebody with this share may take one more, of so many free places and bytes."""
    return share is None or (share.deliveries <= _SHARE * places and share.bytes <= _SHARE * left)


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
