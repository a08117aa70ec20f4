"""Install tokens: read, and refreshed when they are about to expire or were refused (contract 2.7).

A refresh ends the earlier token at once, so only one may be under way: within a process a lock sees to that, between
processes and hosts a fenced lease in the store (``db.control.token_leases``). A holder that froze or died is waited
for until its lease ends, and can then store nothing. Whatever goes wrong otherwise shows as a 401: who gets one asks
again here with ``rejected``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import audit, install_tokens, installs, outbox, token_leases
from enable_with_segment.db.control.install_tokens import Refusal, TokenHealth
from enable_with_segment.db.control.tables import Install, InstallStatus, InstallToken
from enable_with_segment.db.control.token_leases import TokenLease
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.installs import connection_state
from enable_with_segment.installs.acts import InstallAct, lock_for
from enable_with_segment.installs.reasons import Reason, explain
from enable_with_segment.installs.record import queue_provisioning
from enable_with_segment.installs.refusals import Verdict, verdict
from enable_with_segment.installs.token_decision import (
    AFTER_REFUSAL,
    Step,
    is_certain_at_once,
    level_of,
    may_have_minted,
    next_step,
    reason_for_refusal,
    refusal_after,
    retry_at,
)
from enable_with_segment.segment_api.errors import (
    ConfigApiError,
    NotSent,
    SegmentError,
    SegmentUnavailable,
    Unauthenticated,
)
from enable_with_segment.segment_api.grants import RefreshedToken
from enable_with_segment.segment_api.identity import IdentityClient

logger = logging.getLogger(__name__)

ERASE_REMOVED = "erase_removed"
"""The kind of the outbox entry that erases the access of an install that was removed in Segment."""

REMOVAL_GRACE = timedelta(hours=72)
"""How long no event may have come before the access of a removed install is erased."""

_MENDED_BY_A_REFRESH = {Reason.REFRESH_REFUSED.value, Reason.REMOVAL_REPORTED.value}

LEASE = timedelta(seconds=30)
"""More than twice what a refresh may take, so that a request is never under way when its lease ends."""

_PATIENCE = timedelta(seconds=90)
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5


class AccessLost(SegmentError):
    """Segment refuses further tokens for this install. The install's record says so already; do not retry.

    Attributes:
        reason: the reason stored with the install.
    """

    def __init__(self, install_id: str, reason: Reason) -> None:
        super().__init__(f"no access token for {install_id}: {reason.value}")
        self.install_id = install_id
        self.reason = reason


class AccessHeldBack(SegmentUnavailable):
    """Segment refused this install or failed lately. It is not asked again before ``retry_after`` seconds."""


class InstallTokens:
    """Hands out install tokens, and refreshes them.

    Args:
        lease: how long a refresh belongs to whoever began it. Clocks of different hosts may differ by less than this.
        sleep: waits that many seconds.
        jitter: a number from 0 to 1.
        removal_grace: how long no event may have come before the access of a removed install is erased.
    """

    def __init__(
        self,
        database: Database,
        encryption: EncryptionKeys,
        identity: IdentityClient,
        clock: Clock = utc_now,
        *,
        lease: timedelta = LEASE,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        removal_grace: timedelta = REMOVAL_GRACE,
    ) -> None:
        self._database = database
        self._encryption = encryption
        self._identity = identity
        self._clock = clock
        self._lease = lease
        self._sleep = sleep
        self._jitter = jitter
        self._removal_grace = removal_grace
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def access_token(self, install_id: str, *, rejected: str | None = None) -> str:
        """Return a token with at least a minute left, refreshed if the stored one has less or was ``rejected``.

        Raises:
            AccessLost: Segment refuses to refresh, and that is confirmed; the install is marked.
            AccessHeldBack: Segment refused lately; it was not asked, or its refusal is not confirmed yet.
            SegmentUnavailable: not now.
            KeyError: no such install.
        """
        async with self._locks.setdefault(install_id, asyncio.Lock()):
            return await self._live_token(install_id, rejected)

    async def renew(self, install_id: str) -> None:
        """Refresh now, whatever is stored and however often Segment refused before.

        Raises:
            AccessLost, SegmentUnavailable, KeyError: as :meth:`access_token`.
            ActRefused: it is disconnected, or about to be.
        """
        async with self._database.transaction() as session:
            await lock_for(session, InstallAct.REFRESH, install_id)
            await install_tokens.outdate(session, install_id, now=self._clock())
        await self.access_token(install_id)

    async def note_refused(self, install_id: str, refused: Unauthenticated) -> AccessLost | AccessHeldBack:
        """Record that Segment refused even a token that was just renewed; returns what to raise.

        Raises:
            KeyError: no such install.
        """
        now = self._clock()
        async with self._database.transaction() as session:
            install = await installs.lock(session, install_id)
            row = await install_tokens.get(session, install_id)
            if install is None or row is None:
                raise KeyError(install_id)
            refusal = refusal_after(install_tokens.refusal_of(row), Reason.TOKEN_REJECTED, str(refused), now=now)
            failures = row.failures + 1
            again = now + AFTER_REFUSAL.delay(failures, jitter=self._jitter())
            await install_tokens.note_refused(session, install_id, refusal, failures=failures, retry_at=again)
            await self._audit(session, "install_token.refused", install_id)
            return await self._judge(session, install, refusal, now=now, again=again)

    async def _live_token(self, install_id: str, rejected: str | None) -> str:
        patience = self._clock() + _PATIENCE
        pause = _FIRST_PAUSE_SECONDS
        while self._clock() < patience:
            found = await self._use_or_lease(install_id, rejected)
            if isinstance(found, str):
                return found
            if isinstance(found, TokenLease):
                refreshed = await self._refresh(found)
                if refreshed is not None:
                    return refreshed
            else:
                await self._sleep(pause * (0.5 + self._jitter() / 2))
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        raise SegmentUnavailable(f"the token of {install_id} could not be refreshed within {_PATIENCE.seconds} s")

    async def _use_or_lease(self, install_id: str, rejected: str | None) -> str | TokenLease | None:
        """Return the token, or the lease to refresh it, or ``None`` while somebody else has that."""
        now = self._clock()
        async with self._database.transaction() as session:
            row = await install_tokens.get(session, install_id)
            if row is None:
                raise KeyError(install_id)
            step = next_step(row, now=now, rejected=False)
            if step is Step.USE:
                clear = await self._open(session, row)
                if clear != rejected:
                    return clear
                step = next_step(row, now=now, rejected=True)
            if step is Step.HOLD_BACK and row.retry_at is not None:
                left = (row.retry_at - now).total_seconds()
                raise AccessHeldBack(f"Segment is not asked about {install_id} for {left:.0f} s", retry_after=left)
            if step is Step.REFRESH:
                return await token_leases.acquire(session, row, now=now, length=self._lease)
        return None

    async def _open(self, session: AsyncSession, row: InstallToken) -> str:
        await self._audit(session, "install_token.use", row.install_id)
        place = install_tokens.place(row.install_id)
        return self._encryption.decrypt(row.access_token_ciphertext or "", place)

    async def _refresh(self, lease: TokenLease) -> str | None:
        """Refresh under a lease; ``None`` when the caller should look again at what is stored."""
        async with self._database.transaction() as session:
            install = await installs.get(session, lease.install_id)
        if install is None:
            raise KeyError(lease.install_id)
        asked_at = self._clock()
        try:
            refreshed = await self._identity.refresh(install.install_name, may_send=lambda: self._in_time(lease))
        except ConfigApiError as refused:
            outcome = await self._refused(lease, refused)
            if outcome is None:
                return None
            raise outcome from refused
        except SegmentUnavailable as failed:
            if await self._looks_again(lease, failed):
                return None
            raise
        if await self._save(lease, refreshed, expires_at=asked_at + timedelta(seconds=refreshed.expires_in)):
            return refreshed.access_token
        logger.warning("a refresh of %s took longer than its lease; somebody else's token stands", lease.install_id)
        return None

    async def _save(self, lease: TokenLease, refreshed: RefreshedToken, *, expires_at: datetime) -> bool:
        """Store the new token over the old one; the names in the answer are not looked at (case 36)."""
        now = self._clock()
        async with self._database.transaction() as session:
            install = await installs.lock(session, lease.install_id)
            stored = await token_leases.store(
                session,
                self._encryption,
                lease,
                refreshed.access_token,
                expires_at=expires_at,
                now=now,
                still_failing=lease.refusal == Reason.TOKEN_REJECTED.value,
            )
            if stored and install is not None:
                await self._take_up_again(session, install)
            await self._audit(session, "install_token.refresh" if stored else "install_token.late", lease.install_id)
        return stored

    async def _take_up_again(self, session: AsyncSession, install: Install) -> None:
        """Set up an install again that was given up because Segment had refused to refresh."""
        if install.status is InstallStatus.NEEDS_RECONNECT and install.status_reason in _MENDED_BY_A_REFRESH:
            now = self._clock()
            await installs.set_status(session, install.id, InstallStatus.PROVISIONING, now=now)
            await queue_provisioning(session, install.id, now=now)

    async def _looks_again(self, lease: TokenLease, failed: SegmentUnavailable) -> bool:
        """Write down a failed refresh. Tells whether to go on at once.

        That is so once after an outcome that was not seen, because the stored token may be dead (one further mint,
        and no loop), and when the lease was lost or ran out, because then somebody else takes care.
        """
        now, sent = self._clock(), not isinstance(failed, NotSent)
        unseen, failures = may_have_minted(failed), lease.failures + sent
        once_more = unseen and lease.health is not TokenHealth.UNCERTAIN and not lease.abandoned
        again = None
        if sent and not once_more:
            again = retry_at(now, failures, failed, repeated=unseen, jitter=self._jitter())
        async with self._database.transaction() as session:
            kept = await token_leases.give_back(
                session,
                lease,
                health=TokenHealth.UNCERTAIN if unseen else lease.health,
                failures=failures,
                retry_at=again,
            )
            if unseen:
                await self._audit(session, "install_token.uncertain", lease.install_id)
        withdrawn = not sent and not self._in_time(lease)
        return once_more or withdrawn or not kept

    def _in_time(self, lease: TokenLease) -> bool:
        """Tell whether a request may go out: its answer is then here, or given up, before the lease ends."""
        return self._clock() < lease.until - self._lease / 2

    async def _refused(self, lease: TokenLease, refused: ConfigApiError) -> AccessLost | AccessHeldBack | None:
        """Record that Segment refused to refresh (case 40); returns what to raise, ``None`` if the lease was lost."""
        now, failures = self._clock(), lease.failures + 1
        stored = None
        if lease.refusal is not None and lease.refused_since is not None:
            stored = Refusal(lease.refusal, lease.refused_since, "")
        refusal = refusal_after(stored, reason_for_refusal(refused), str(refused), now=now)
        again = retry_at(now, failures, refused, jitter=self._jitter()) or now
        async with self._database.transaction() as session:
            install = await installs.lock(session, lease.install_id)
            kept = await token_leases.give_back(
                session, lease, health=TokenHealth.FAILING, failures=failures, retry_at=again, refusal=refusal
            )
            if not kept or install is None:
                return None
            await self._audit(session, "install_token.refused", lease.install_id)
            return await self._judge(session, install, refusal, now=now, again=again)

    async def _judge(
        self, session: AsyncSession, install: Install, refusal: Refusal, *, now: datetime, again: datetime
    ) -> AccessLost | AccessHeldBack:
        """Judge a refusal that is stored, mark the locked install if it is confirmed, and return what to raise."""
        reason = Reason(refusal.reason)
        everybody = await install_tokens.refusals(session)
        live = await install_tokens.count_live(session)
        found = verdict(refusal, everybody.values(), live, now=now)
        if found is Verdict.UNCONFIRMED and is_certain_at_once(reason, install.status):
            found = Verdict.CONFIRMED
        logger.log(
            level_of(found, reason, is_new=refusal.since == now),
            "Segment refuses the token of %s (%s), %s",
            install.id,
            refusal.text,
            found.value,
        )
        if found is not Verdict.CONFIRMED:
            return AccessHeldBack(
                f"Segment refuses {install.id} ({refusal.text}), {found.value}",
                retry_after=(again - now).total_seconds(),
            )
        if not install.status.over:
            await self._mark(session, install, reason, now=now)
        return AccessLost(install.id, reason)

    async def _mark(self, session: AsyncSession, install: Install, reason: Reason, *, now: datetime) -> None:
        """Set the status of an install that is refused for good, and plan the erasing of one that was removed."""
        hours = f"{self._removal_grace.total_seconds() / 3600:g} hours"
        status, sentence = explain(reason, source=install.source_name, detail=hours)
        if (install.status, install.status_reason) != (status, reason.value):
            await connection_state.set_status(session, install, status, now=now, reason=reason.value, detail=sentence)
        waiting = {entry.kind for entry in await outbox.open_of_install(session, install.id)}
        if reason is Reason.REMOVAL_REPORTED and ERASE_REMOVED not in waiting:
            await outbox.add(session, ERASE_REMOVED, install.id, now=now, due=now + self._removal_grace)

    async def _audit(self, session: AsyncSession, action: str, install_id: str) -> None:
        await audit.add(session, actor="service", action=action, subject=install_id, now=self._clock())
