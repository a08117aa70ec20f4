"""Reading answers to deliveries: just enough HTTP/1.1 for those with a ``Content-Length``."""

from __future__ import annotations

from typing import NamedTuple

_MOST_KNOWN = 100
"""So many different answers are remembered; they differ by status and by the second of their date."""


class Answer(NamedTuple):
    """What an answer says."""

    status: int
    stays_open: bool


class Answers:
    """Reads answers; of those that are alike, byte for byte, the first one only."""

    def __init__(self) -> None:
        self._known: dict[bytes, Answer] = {}

    def read(self, received: bytes) -> Answer | None:
        """Return what an answer says; ``None`` while it is not there as a whole."""
        answer = self._known.get(received)
        if answer is None:
            answer = _read(received)
            if answer is not None:
                if len(self._known) >= _MOST_KNOWN:
                    self._known.clear()
                self._known[received] = answer
        return answer


def _read(received: bytes) -> Answer | None:
    head_end = received.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head = received[:head_end].lower()
    _, found, rest = head.partition(b"content-length:")
    length = int(rest.partition(b"\r\n")[0]) if found else 0
    if len(received) < head_end + 4 + length:
        return None
    return Answer(int(head[9:12]), b"connection: close" not in head)
