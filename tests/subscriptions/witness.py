"""Somebody who knows what was sent and what a partner holds, and says where the stores do not agree with that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import TypeAlias

from enable_with_segment.db.control import audit
from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.records import EventDetail, EventRecord, HandlerRecord
from enable_with_segment.db.event_log.states import EventState, HandlerState
from enable_with_segment.subscriptions.archive.erasure import ERASED, REQUESTED
from tests.subscriptions.ledger import Ledger, Message
from tests.subscriptions.partner import ANSWERS, Partner

Outcomes: TypeAlias = dict[tuple[str, str], HandlerRecord]
"""The outcome of each handler for each message."""


class Witness:
    """Its checks assert; the rest returns something, or takes note of it.

    Attributes:
        put_back: how often somebody put a message back without calling a handler, and counted that as an attempt.
        interruptions: how often anybody who held events died, or might be overtaken.
        retried: messages that were given up and tried again, with their attempts counted anew.
    """

    def __init__(self, ledger: Ledger, partner: Partner) -> None:
        self._ledger = ledger
        self._partner = partner
        self.put_back: Counter[str] = Counter()
        self.interruptions = 0
        self.retried: set[str] = set()
        self._finished: set[str] = set()
        self._to_be_noted: set[str] = set()
        self._noted: set[str] = set()
        self._gone: set[str] = set()
        self._whom: dict[str, set[str]] = {}
        self._through: dict[str, datetime] = {}

    async def outcomes(self, log: StoredEventLog) -> Outcomes:
        """Return what the log knows of handlers."""
        return {
            (message.message_id, _name(outcome)): outcome
            for message in self._ledger.stored()
            for outcome in (await detail_of(log, message)).handlers
        }

    async def note_begun(self, log: StoredEventLog, message: Message, told_through: datetime) -> None:
        """Learn whom a deletion has to erase at least, when its handlers are called for the first time.

        All that was known when it was asked for, and every merge that is over by now. One that still waits can only
        be a deletion of its own, because another deletion was there before it.
        """
        if message.message_id in self._whom:
            return
        merges = {one.message_id: (await detail_of(log, one)).record.state for one in self._ledger.stored("alias")}
        through = message.through if message.kind == "delete" else told_through
        assert through >= message.through or message.kind == "delete"
        asked_at = message.event_id or 0

        def counts(other: Message) -> bool:
            if other.occurred_at > through:
                return False
            if other.kind != "alias":
                return (other.event_id or 0) < asked_at
            state = merges[other.message_id]
            if state in (EventState.PENDING, EventState.SUPPRESSED):
                return (other.event_id or 0) < asked_at and not self._ledger.may_be_erased(other, but=message)
            return True

        whom = message.person if message.kind == "delete" else message.previous
        self._whom[message.message_id] = self._ledger.merged(whom or "", counts)
        self._through[message.message_id] = through

    def note_retried(self, message_ids: Iterable[str]) -> None:
        """Note what is tried again after it was given up; for a deletion it is decided anew whom it covers."""
        for message_id in message_ids:
            self.retried.add(message_id)
            self._whom.pop(message_id, None)

    async def note_finished(self, log: StoredEventLog) -> None:
        """Learn which deletions are finished, and which merges that came after one.

        Whatever is stored of their people by then has to be gone for good.
        """
        before = set(self._finished)
        repeated: list[Message] = []
        for message in self._unfinished("delete"):
            match (await detail_of(log, message)).record.state:
                case EventState.HANDLED | EventState.UNSUPPORTED:
                    self._to_be_noted.add(message.message_id)
                    self._finish(message, self._whom[message.message_id], message.through)
                case EventState.REPEATED_DELETE:
                    repeated.append(message)
        for message in self._unfinished("alias"):
            detail = await detail_of(log, message)
            if detail.record.state is EventState.SUPPRESSED and "forget" in map(_name, detail.handlers):
                self._to_be_noted.add(message.message_id)
                self._finish(message, self._whom[message.message_id], self._through[message.message_id])
        for message in repeated:
            work = await log.deletion_of(message.event_id or 0)
            if work is not None and work.completed and work.detail is not None:
                does_it = work.detail.record.message_id or ""
                whom = self._whom.get(does_it, set()) & self._known_when_asked(message)
                self._finish(message, whom, message.through, says_it_again=does_it in before)

    async def is_told_before_another_delete(
        self, log: StoredEventLog, message: Message, *, given_up_too: bool = False
    ) -> bool:
        """Tell whether a message is a merge that a delete covers which is not finished.

        That will erase it. Until then it is handed over, whatever other deletions are finished. When the delete is
        given up, the merge is there for as long as its dead letter.
        """
        if message.kind != "alias":
            return False
        unfinished = {EventState.PENDING} | ({EventState.DEAD_LETTER} if given_up_too else set())
        for delete in self._unfinished("delete"):
            people = self._ledger.merged(delete.person or "")
            covers = message.person in people and message.occurred_at <= delete.through
            if covers and (await detail_of(log, delete)).record.state in unfinished:
                return True
        return False

    def _known_when_asked(self, delete: Message) -> set[str]:
        def counts(other: Message) -> bool:
            return other.occurred_at <= delete.through and (other.event_id or 0) < (delete.event_id or 0)

        return self._ledger.merged(delete.person or "", counts)

    def _unfinished(self, kind: str) -> list[Message]:
        return [one for one in self._ledger.stored(kind) if one.message_id not in self._finished]

    def _finish(self, message: Message, whom: set[str], through: datetime, *, says_it_again: bool = False) -> None:
        """Note what has to be gone: more than before, unless this says only again what was done before."""
        self._finished.add(message.message_id)
        self._ledger.note_erased(whom, through)
        if not says_it_again:
            self._gone |= {
                one.message_id for one in self._ledger.stored() if one.subject in whom and one.occurred_at <= through
            }

    async def check_log(self, log: StoredEventLog) -> None:
        """Nothing acknowledged is missing, nothing erased is there, and nothing else is erased."""
        stored = list(self._ledger.stored())
        proof = await log.prove([message.message_id for message in stored])
        assert proof.missing == ()
        for message in stored:
            detail = await detail_of(log, message)
            record = detail.record
            most = message.answered_again + message.unanswered
            assert message.answered_again <= record.duplicates <= most
            is_over = record.state is not EventState.PENDING
            is_expected = (message.message_id in self._gone or is_over) and self._is_erased(message, record)
            is_told = record.state is not EventState.SUPPRESSED and await self.is_told_before_another_delete(
                log, message, given_up_too=True
            )
            if is_expected and not is_told:
                assert (detail.body, record.erased) == (None, True), f"{message.message_id} is still there"
            if message.kind != "delete" and not self._ledger.may_be_erased(message):
                assert detail.body == message.body, f"{message.message_id} was erased without anybody's wish"
        for person, occurred_at in self._partner.kept():
            assert not self._ledger.is_erased(person, occurred_at), f"the partner still has {person}"

    def _is_erased(self, message: Message, record: EventRecord) -> bool:
        # Whose own erasure is still to come, or was given up, has to be known for that.
        is_wanted = message.kind in ("delete", "alias") and record.state is EventState.PENDING
        is_deletion = message.kind == "delete" or message.message_id in self._whom
        is_wanted |= is_deletion and record.state is EventState.DEAD_LETTER
        return not is_wanted and self._ledger.is_erased(message.subject, message.occurred_at)

    def check_attempts(self, before: Outcomes, after: Outcomes, calls: Counter[tuple[str, str]], *, died: bool) -> None:
        """Each call has its result on record, unless the process died, and nobody is called who had finished."""
        for key in calls.keys() | after.keys():
            earlier, outcome = before.get(key), after.get(key)
            assert earlier is None or not earlier.finished or not calls[key], f"{key} had finished and is called again"
            results = (outcome.results if outcome else 0) - (earlier.results if earlier else 0)
            assert results == calls[key] or (died and 0 <= results < calls[key]), f"{key}: a result was not stored"
            if outcome is None:
                continue
            assert outcome.attempts - outcome.results <= self.interruptions
            if calls[key] and not died:
                assert outcome.state is ANSWERS[self._partner.answers[key]], f"{key} was noted as {outcome.state}"

    async def check_audit(self, database: Database) -> None:
        """Each deletion that is finished was noted before the log was wiped, and after it with what was erased."""
        async with database.transaction() as session:
            requested = await audit.subjects(session, action=REQUESTED)
            erased = await audit.subjects(session, action=ERASED)
        for message_id in self._to_be_noted - self._noted:
            subject = f"event {self._ledger.sent[message_id].event_id}"
            assert subject in requested
            assert subject in erased
        self._noted |= self._to_be_noted

    async def check_end(self, log: StoredEventLog) -> None:
        """Every message found its end, and that is what its handlers said."""
        for message in self._ledger.stored():
            detail = await detail_of(log, message)
            record, states = detail.record, {outcome.state for outcome in detail.handlers}
            attempts = [outcome.attempts for outcome in detail.handlers]
            counted = record.attempts - self.put_back[message.message_id]
            most = sum(attempts) + (record.state is EventState.SUPPRESSED)
            assert message.message_id in self.retried or max(attempts, default=0) <= counted <= most
            match record.state:
                case EventState.HANDLED:
                    assert HandlerState.DONE in states <= {HandlerState.DONE, HandlerState.UNSUPPORTED}
                case EventState.UNSUPPORTED:
                    assert states == {HandlerState.UNSUPPORTED}
                case EventState.DEAD_LETTER:
                    assert HandlerState.FAILED in states
                case EventState.SUPPRESSED:
                    assert self._ledger.may_be_erased(message), f"{message.message_id} is kept from the handlers"
                case EventState.REPEATED_DELETE:
                    assert message.kind == "delete"
                case _:
                    raise AssertionError(f"{message.message_id} is {record.state}")
            for outcome in detail.handlers:
                assert outcome.finished or record.state is EventState.SUPPRESSED
                assert self._partner.calls[message.message_id, _name(outcome)] >= outcome.results


async def detail_of(log: StoredEventLog, message: Message) -> EventDetail:
    """Return what the log has of a message that it is known to have."""
    (detail,) = await log.show(message.message_id)
    return detail


def _name(outcome: HandlerRecord) -> str:
    return outcome.handler.partition(" ")[0]
