"""How long whoever counts pending events leaves the store alone afterwards.

On PostgreSQL counting millions takes seconds, and those who want to know ask all the time.
"""

from __future__ import annotations

_TIMES_AS_LONG = 20
_LONGEST_SECONDS = 120.0


def pause_after(seconds: float) -> float:
    """Return the pause, in seconds, after a count that took so long: at most a twentieth of the time is counted."""
    return min(seconds * _TIMES_AS_LONG, _LONGEST_SECONDS)
