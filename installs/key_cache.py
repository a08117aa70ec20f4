"""Recognising API keys as deliveries present them: by keyed hash, and remembered for one second.

Neither a key nor what a request carries of it is kept, only keyed hashes of both. So the time of a look-up says nothing
about a guess, and a picture of this process's memory holds no key that is not being used just then.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import api_keys
from enable_with_segment.db.control.tables import Account, ApiKey
from enable_with_segment.db.database import Database

_OLDEST_SECONDS = 1.0
_READ_AGAIN_AFTER_SECONDS = 0.4
_MOST_REMEMBERED = 10_000
_MOST_PRESENTATIONS = 4
"""In how many ways one key is remembered: anybody who has it can present it in as many as they like."""
_MOST_AT_ONCE = 500


STRANGERS = ""
"""The name of all senders whose key was not recognised lately."""


class KeyState(StrEnum):
    """What a presented key is worth."""

    USABLE = "usable"
    UNKNOWN = "unknown"
    REVOKED = "revoked"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """Whom a key belongs to. ``install_id`` is empty for a key pasted by hand (contract 4.9, route B).

    ``signing_secret_ciphertext`` is there when deliveries with this key have to be signed.
    """

    key_id: str
    account: str
    component: str
    install_id: str | None
    signing_secret_ciphertext: str | None = None
    scope: str = field(init=False)
    """The space in which message ids are unique: the install, or the key where there is no install."""

    def __post_init__(self) -> None:
        scope = f"install:{self.install_id}" if self.install_id else f"key:{self.key_id}"
        object.__setattr__(self, "scope", scope)

    @property
    def signed(self) -> bool:
        """Whether deliveries with this key have to be signed."""
        return self.signing_secret_ciphertext is not None


@dataclass(frozen=True, slots=True)
class KeyLookup:
    """The answer of a look-up; ``holder`` is there for every state but *unknown*."""

    state: KeyState
    holder: KeyHolder | None = None


class _Known(NamedTuple):
    """What was read of a key, and when; it is believed as long as nothing was forgotten since."""

    read_at: float
    generation: int
    lookup: KeyLookup
    key_hash: str


_UNKNOWN = KeyLookup(KeyState.UNKNOWN)


class _Question:
    """A key that somebody wants to be read, and the places where the answer is to be remembered."""

    __slots__ = ("answer", "asked_at", "key_hash", "places")

    def __init__(self, key_hash: str) -> None:
        self.key_hash = key_hash
        self.asked_at = math.inf
        """When the query for it began."""
        self.places: set[bytes] = set()
        self.answer: asyncio.Future[KeyLookup] = asyncio.get_running_loop().create_future()


class KeyCache:
    """Tells whom a presented key belongs to.

    Keys are read in groups: while one query is on its way, the questions for the next one are collected.

    Args:
        lookup_secret: 32 bytes that key the hashes (``db.control.service_secrets``).
        clock: the instant that a key's expiry is judged by.
        monotonic: seconds that only go forward, for how old an answer is; a clock that is set back must not make a
            revoked key work for longer.
    """

    def __init__(
        self,
        database: Database,
        lookup_secret: bytes,
        clock: Clock = utc_now,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._lookup_secret = lookup_secret
        self._clock = clock
        self._monotonic = monotonic
        self._known: dict[bytes, _Known] = {}
        self._places: dict[str, list[bytes]] = {}
        self._questions: dict[str, _Question] = {}
        self._waiting: list[_Question] = []
        self._reading: asyncio.Task[None] | None = None
        self._generation = 0

    def place(self, presentation: bytes) -> bytes:
        """Return where the answer for a presentation is remembered: a keyed hash, which never leaves this process.

        Args:
            presentation: what a request carries, such as the value of its ``Authorization`` header.
        """
        return hashlib.blake2b(presentation, digest_size=32, key=self._lookup_secret).digest()

    def sender(self, place: bytes | None) -> str:
        """Return under which name to count what somebody sends who presents this; all strangers have the same.

        Keys are easily made up: if each counted as a sender, none of them would ever send too much. A key that was
        recognised once is no stranger's for a long time, whatever it is worth by now.

        Args:
            place: of what was presented, as by :meth:`place`; ``None`` for nothing.
        """
        known = None if place is None else self._known.get(place)
        return STRANGERS if known is None else known.key_hash

    def recent(self, place: bytes) -> KeyLookup | None:
        """Tell without waiting whom a key belongs to; ``None`` when that was not read within the last second.

        A key that is in use is read again in the background before what is known of it gets too old, so that its
        deliveries never wait for the store.
        """
        known = self._known.get(place)
        if known is None or known.generation != self._generation:
            return None
        age = self._monotonic() - known.read_at
        if age >= _OLDEST_SECONDS:
            return None
        if age >= _READ_AGAIN_AFTER_SECONDS:
            self._ask(known.key_hash, place)
        return known.lookup

    async def look_up(self, key: str, *, place: bytes | None = None) -> KeyLookup:
        """Tell whom a key belongs to; the answer is remembered in a place (that of the key itself by default).

        Those who ask for the same key at the same time share one query.
        """
        place = place or self.place(key.encode("utf-8", "surrogatepass"))
        known = self._known.get(place)
        is_believed = known is not None and known.generation == self._generation
        if known is not None and is_believed and self._monotonic() - known.read_at < _OLDEST_SECONDS:
            return known.lookup
        # One caller that gives up must not cancel the answer that others wait for.
        return await asyncio.shield(self._ask(self.hash(key), place))

    def forget(self) -> None:
        """Believe nothing that was read, or asked for, before now."""
        self._questions.clear()
        self._generation += 1

    async def close(self) -> None:
        """Wait for what is still being read, before the store is closed."""
        if self._reading is not None:
            await asyncio.wait([self._reading])

    def hash(self, key: str) -> str:
        """Return the hash that a key is stored under: HMAC-SHA256, in hex."""
        return hmac.digest(self._lookup_secret, key.encode("utf-8", "surrogatepass"), "sha256").hex()

    def _ask(self, key_hash: str, place: bytes) -> asyncio.Future[KeyLookup]:
        question = self._questions.get(key_hash)
        if question is None or self._monotonic() - question.asked_at >= _OLDEST_SECONDS:
            question = self._questions[key_hash] = _Question(key_hash)
            self._waiting.append(question)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_all())
        question.places.add(place)
        return question.answer

    async def _read_all(self) -> None:
        while self._waiting:
            questions, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
            try:
                await self._read_together(questions)
            finally:
                self._strike_out(questions)

    async def _read_together(self, questions: Sequence[_Question]) -> None:
        try:
            await self._read(questions)
        except Exception as error:
            if isinstance(error, SQLAlchemyError | OSError) or len(questions) == 1:
                _tell_of(error, questions)
                return
            for question in questions:  # a row that cannot be read must not take the others along
                await self._read_together([question])

    def _strike_out(self, questions: Sequence[_Question]) -> None:
        for question in questions:
            if not question.answer.done():  # the task that reads was cancelled, or the driver gave its query up
                question.answer.set_exception(ConnectionError("the query was broken off"))
                question.answer.exception()
            if self._questions.get(question.key_hash) is question:
                del self._questions[question.key_hash]

    async def _read(self, questions: Sequence[_Question]) -> None:
        asked_at, now, generation = self._monotonic(), self._clock(), self._generation
        for question in questions:
            question.asked_at = asked_at
        found = await api_keys.read_by_hashes(self._database, [question.key_hash for question in questions])
        for question in questions:
            there = found.get(question.key_hash)
            lookup = _UNKNOWN if there is None else _lookup(*there, now=now)
            for place in question.places:
                if there is None:
                    self._strike_off(place)
                elif generation == self._generation:
                    self._remember(place, _Known(asked_at, generation, lookup, question.key_hash))
            if not question.answer.done():
                question.answer.set_result(lookup)

    def _remember(self, place: bytes, known: _Known) -> None:
        if place not in self._known:
            theirs = self._places.get(known.key_hash, [])
            if len(theirs) >= _MOST_PRESENTATIONS:
                self._strike_off(theirs[0])
            elif len(self._known) >= _MOST_REMEMBERED:
                self._strike_off(next(iter(self._known)))  # the oldest
            self._places.setdefault(known.key_hash, []).append(place)
        self._known[place] = known

    def _strike_off(self, place: bytes) -> None:
        known = self._known.pop(place, None)
        if known is not None:
            theirs = self._places[known.key_hash]
            theirs.remove(place)
            if not theirs:
                del self._places[known.key_hash]


def _tell_of(error: Exception, questions: Sequence[_Question]) -> None:
    if isinstance(error, SQLAlchemyError | OSError):
        # What SQLAlchemy raises is held by a frame in its own traceback; with it, until the collector comes by, would
        # be the frames of all who wait, and their keys.
        error = error.with_traceback(None)
    for question in questions:
        if not question.answer.done():
            question.answer.set_exception(error)
            question.answer.exception()  # whoever waits gets it; in the background it means to try again


def _lookup(key: ApiKey, account: Account, *, now: datetime) -> KeyLookup:
    state = _state(key, suspended=account.suspended_at is not None, now=now)
    holder = KeyHolder(key.id, key.account, key.component, key.install_id, key.signing_secret_ciphertext)
    return KeyLookup(state, holder)


def _state(key: ApiKey, *, suspended: bool, now: datetime) -> KeyState:
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
        return KeyState.REVOKED
    return KeyState.SUSPENDED if suspended else KeyState.USABLE
