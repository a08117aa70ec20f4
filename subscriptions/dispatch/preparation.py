"""From a claimed event to an attempt at it: which of its handlers are left to call, and what they are told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime

from enable_with_segment.components.errors import DeliveryRefused
from enable_with_segment.components.event import Event
from enable_with_segment.components.event_reader import check_event, parse_event
from enable_with_segment.components.handler import Handler
from enable_with_segment.components.install_context import InstallContexts
from enable_with_segment.components.subscription import Subscription
from enable_with_segment.db.backoff import RetryPolicy
from enable_with_segment.db.event_log.records import ClaimedEvent, Settlement
from enable_with_segment.db.event_log.states import EventState, HandlerState
from enable_with_segment.subscriptions.dispatch.attempt import Attempt
from enable_with_segment.subscriptions.dispatch.late_merge import deletion_of_other_id
from enable_with_segment.subscriptions.dispatch.outcome import DELETED, Verdict

logger = logging.getLogger(__name__)

_INTERRUPTED = "the attempt ended without a result, so nobody knows its effect"


class Preparation:
    """Prepares attempts for the handlers of some components."""

    def __init__(
        self,
        components: Mapping[str, Subscription],
        contexts: InstallContexts,
        *,
        policy: RetryPolicy,
        jitter: Callable[[], float],
    ) -> None:
        self._components = components
        self._contexts = contexts
        self._policy = policy
        self._jitter = jitter

    async def of(self, claimed: ClaimedEvent, now: datetime) -> Attempt | Settlement:
        """Return the attempt at an event, or how it ends when there is nothing to call.

        An attempt that has verdicts already is one that somebody began and never ended.
        """
        if claimed.suppressed and claimed.type != "alias":
            return _suppressed(claimed, now)
        subscription = self._components[claimed.component]
        try:
            event = parse_event(claimed.body, received_at=claimed.received_at, display_name=subscription.display_name)
            check_event(event)
            if claimed.suppressed:
                deletion = deletion_of_other_id(event, claimed.erased_through or now)
                if deletion is None:
                    return _suppressed(claimed, now)
                event = deletion
            install = self._contexts.known(claimed.account, claimed.component, claimed.install_id)
            if install is None:
                install = await self._contexts.find(
                    account=claimed.account, component=claimed.component, install_id=claimed.install_id
                )
        except DeliveryRefused as error:
            if claimed.suppressed:
                return _suppressed(claimed, now)
            return Settlement(claimed.id, claimed.lease, EventState.DEAD_LETTER, now, error=error.message)
        except Exception as error:  # the control store is away: try again, like after a failed handler
            wait = self._policy.delay(claimed.attempts + 1, jitter=self._jitter())
            reason = f"install context: {type(error).__name__}"
            return Settlement(claimed.id, claimed.lease, EventState.PENDING, now, error=reason, available_at=now + wait)
        attempt = Attempt(claimed, event, install, self._handlers_left(claimed, event, subscription))
        if claimed.interrupted:
            logger.warning("The last attempt at event %d ended without a result", claimed.id)
            _note_interruption(attempt, now)
        return attempt

    def _handlers_left(self, claimed: ClaimedEvent, event: Event, subscription: Subscription) -> tuple[Handler, ...]:
        wanted = subscription.handlers_of(event)
        if not claimed.finished:
            return wanted
        done = {result.handler for result in claimed.finished}
        return tuple(handler for handler in wanted if handler.key not in done)


def _note_interruption(attempt: Attempt, now: datetime) -> None:
    """Note that nobody knows what an attempt did which was begun before now and never ended.

    A handler that has to wait until after now was not called by it. Which of the others were is not on record.
    """
    waits = {handler.key: attempt.own_wait(handler.key, now) for handler in attempt.handlers}
    attempt.verdicts = [
        Verdict(handler, HandlerState.UNKNOWN, _INTERRUPTED) for handler, wait in waits.items() if wait is None
    ]
    if attempt.verdicts:  # otherwise it goes on like any other
        attempt.waiting = [wait for wait in waits.values() if wait is not None]


def _suppressed(claimed: ClaimedEvent, now: datetime) -> Settlement:
    return Settlement(claimed.id, claimed.lease, EventState.SUPPRESSED, now, error=DELETED)
