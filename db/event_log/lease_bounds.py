"""Leases that cannot be true, because the clock was set back after they were taken; the same rule on every engine."""

from __future__ import annotations

from datetime import timedelta

#: Leases are seconds long. One that runs for more than this was taken while the clock was ahead.
LONGEST_LEASE = timedelta(minutes=10)

#: What is left to such a lease: enough for a holder that lives to renew it.
LEFT_TO_IT = timedelta(minutes=1)
