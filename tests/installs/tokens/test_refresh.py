"""How a refresh can go wrong, step by step: lost answers, long waits, refusals (TK-7 to TK-10, TK-15)."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from enable_with_segment.db.control import install_tokens, token_leases
from enable_with_segment.db.control.install_tokens import TokenHealth
from enable_with_segment.db.control.tables import InstallToken
from enable_with_segment.http_client import httpx
from enable_with_segment.installs.tokens import LEASE, AccessHeldBack, AccessLost, InstallTokens
from enable_with_segment.segment_api.errors import (
    InvalidAnswer,
    NotSent,
    RateLimited,
    SegmentUnavailable,
    Unauthenticated,
)
from enable_with_segment.segment_api.rate_limiter import RateLimiter
from tests.installs.provisioning.stage import Stage
from tests.segment_api.wire import Sent

LATER = timedelta(hours=1)
REFRESH = "GET .*/token"


async def due(stage: Stage) -> str:
    """An install whose token has run out."""
    install_id = await stage.install()
    stage.clock.now += LATER
    return install_id


async def row(stage: Stage, install_id: str) -> InstallToken:
    async with stage.database.transaction() as session:
        found = await install_tokens.get(session, install_id)
    assert found is not None
    return found


def refreshes(stage: Stage) -> int:
    return len(stage.wire.of("GET", "/token"))


def is_live(stage: Stage, token: str) -> bool:
    return token in stage.sandbox.state.world.tokens


async def other_process(stage: Stage, **options: object) -> InstallTokens:
    """The same store and Segment, as another process sees them."""
    return InstallTokens(stage.database, stage.encryption, stage.identity, stage.clock, **options)  # type: ignore[arg-type]


async def hold(stage: Stage, install_id: str) -> token_leases.TokenLease:
    """Take the lease and do nothing with it, as a process that dies or freezes."""
    async with stage.database.transaction() as session:
        found = await install_tokens.get(session, install_id)
        assert found is not None
        lease = await token_leases.acquire(session, found, now=stage.clock(), length=LEASE)
    assert lease is not None
    return lease


async def test_tk_07_processes_share_one_refresh(stage: Stage) -> None:
    install_id = await due(stage)

    async def pause(_: float) -> None:
        await asyncio.sleep(0)

    processes = [await other_process(stage, sleep=pause) for _ in range(4)]
    obtained = await asyncio.gather(*(tokens.access_token(install_id) for tokens in processes for _ in range(5)))
    assert refreshes(stage) == 1
    assert len(set(obtained)) == 1
    assert is_live(stage, obtained[0])


async def test_tk_07_of_any_number_of_attempts_one_gets_the_lease(stage: Stage) -> None:
    install_id = await due(stage)
    seen = await row(stage, install_id)

    async def attempt() -> token_leases.TokenLease | None:
        async with stage.database.transaction() as session:
            return await token_leases.acquire(session, seen, now=stage.clock(), length=LEASE)

    leases = await asyncio.gather(*(attempt() for _ in range(20)))
    assert sum(lease is not None for lease in leases) == 1


async def test_tk_08_what_a_late_holder_writes_changes_nothing(stage: Stage) -> None:
    install_id = await due(stage)
    late = await hold(stage, install_id)
    stage.clock.now += LEASE
    token = await stage.tokens.access_token(install_id)
    before = (await row(stage, install_id)).model_dump()
    async with stage.database.transaction() as session:
        now = stage.clock()
        assert not await token_leases.store(
            session, stage.encryption, late, "late", expires_at=now + LATER, now=now, still_failing=False
        )
        assert not await token_leases.give_back(
            session, late, health=TokenHealth.UNCERTAIN, failures=9, retry_at=now + LATER
        )
    assert (await row(stage, install_id)).model_dump() == before
    assert await stage.tokens.access_token(install_id) == token
    assert is_live(stage, token)


async def test_tk_08_a_refusal_that_comes_late_marks_nothing(stage: Stage) -> None:
    install_id = await due(stage)

    async def meanwhile(route: str) -> None:
        if route.endswith("/token"):
            stage.wire.meanwhile = None
            stage.clock.now += LEASE
            await (await other_process(stage)).access_token(install_id)

    stage.fault(REFRESH, status=404, body='{"error":"install not found","code":5}')
    stage.wire.meanwhile = meanwhile
    token = await stage.tokens.access_token(install_id)
    assert is_live(stage, token)
    assert await stage.outcome(install_id) == ("provisioning", None)


async def test_tk_08_nothing_is_sent_when_the_lease_ran_out_before(stage: Stage) -> None:
    install_id = await due(stage)
    waits: list[float] = []

    async def frozen(seconds: float) -> None:
        waits.append(seconds)
        stage.clock.now += LEASE

    limiter = RateLimiter(2, monotonic=lambda: 100.0 * len(waits), sleep=frozen)
    await limiter.acquire()
    await limiter.acquire()
    stage.identity._limiter = limiter
    token = await stage.tokens.access_token(install_id)
    assert len(waits) == 1, "the limiter held the first attempt back for longer than its lease"
    assert refreshes(stage) == 1
    assert is_live(stage, token)


async def test_tk_08_a_lease_that_is_held_is_waited_for_and_then_taken_over(stage: Stage) -> None:
    install_id = await due(stage)
    await hold(stage, install_id)

    async def pause(seconds: float) -> None:
        stage.clock.now += timedelta(seconds=seconds)

    token = await (await other_process(stage, sleep=pause)).access_token(install_id)
    assert stage.clock() - (await row(stage, install_id)).refreshed_at < timedelta(seconds=1)
    assert refreshes(stage) == 1
    assert is_live(stage, token)


async def test_waiting_for_somebody_elses_refresh_has_an_end(stage: Stage) -> None:
    install_id = await due(stage)

    async def pause(_: float) -> None:
        stage.clock.now += LEASE
        await hold(stage, install_id)

    await hold(stage, install_id)
    with pytest.raises(SegmentUnavailable, match="could not be refreshed"):
        await (await other_process(stage, sleep=pause)).access_token(install_id)
    assert refreshes(stage) == 0


def lose_answers(stage: Stage, times: int) -> list[str]:
    """Let Segment issue tokens whose answers never arrive; returns what was lost so far."""
    lost: list[str] = []

    def after(sent: Sent) -> None:
        if sent.path.endswith("/token") and len(lost) < times:
            lost.append(sent.path)
            raise httpx.ReadError("cut")

    stage.wire.after = after
    return lost


async def test_tk_09_a_lost_answer_is_uncertain_and_then_ok(stage: Stage) -> None:
    install_id = await due(stage)
    lose_answers(stage, 1)
    health: list[str] = []

    async def note(route: str) -> None:
        if route.endswith("/token"):
            health.append((await row(stage, install_id)).health)

    stage.wire.meanwhile = note
    token = await stage.tokens.access_token(install_id)
    assert health == ["ok", "uncertain"]
    assert (await row(stage, install_id)).health == "ok"
    assert refreshes(stage) == 2
    assert is_live(stage, token)


async def test_tk_09_two_lost_answers_are_no_loop(stage: Stage) -> None:
    install_id = await due(stage)
    lose_answers(stage, 2)
    with pytest.raises(SegmentUnavailable):
        await stage.tokens.access_token(install_id)
    assert refreshes(stage) == 2
    for tokens in (stage.tokens, await other_process(stage)):
        with pytest.raises(AccessHeldBack):
            await tokens.access_token(install_id)
    assert refreshes(stage) == 2
    stage.clock.now += timedelta(minutes=1)
    assert is_live(stage, await stage.tokens.access_token(install_id))
    assert (await row(stage, install_id)).health == "ok"


async def test_tk_09_a_stored_token_is_not_used_while_it_may_be_dead(stage: Stage) -> None:
    install_id = await stage.install()
    dead = await stage.access_token(install_id)
    lose_answers(stage, 2)
    with pytest.raises(SegmentUnavailable):
        await stage.tokens.access_token(install_id, rejected=dead)
    stage.clock.now += timedelta(minutes=1)
    assert await stage.tokens.access_token(install_id) != dead


async def test_tk_09_an_answer_that_cannot_be_read_counts_as_lost(stage: Stage) -> None:
    install_id = await due(stage)
    stage.fault(REFRESH, malformed_json=True, after=True)
    assert is_live(stage, await stage.tokens.access_token(install_id))
    assert refreshes(stage) == 2


async def test_tk_09_unreadable_answers_for_ever_end_after_two(stage: Stage) -> None:
    install_id = await due(stage)
    stage.fault(REFRESH, None, malformed_json=True)
    with pytest.raises(InvalidAnswer):
        await stage.tokens.access_token(install_id)
    assert refreshes(stage) == 2


async def test_a_process_that_died_while_refreshing_leaves_nothing_to_do_by_hand(stage: Stage) -> None:
    install_id = await stage.install()
    old = await stage.access_token(install_id)
    await hold(stage, install_id)
    stage.clock.now += LEASE
    token = await (await other_process(stage)).access_token(install_id)
    assert token != old, "its refresh may have ended the stored token"
    assert is_live(stage, token)


async def test_no_connection_is_neither_uncertain_nor_held_back(stage: Stage) -> None:
    install_id = await due(stage)

    def unreachable(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route")

    stage.wire.before = unreachable
    for _ in range(5):
        with pytest.raises(NotSent):
            await stage.tokens.access_token(install_id)
    assert (await row(stage, install_id)).health == "ok"
    stage.wire.before = None
    assert is_live(stage, await stage.tokens.access_token(install_id))


async def test_tk_15_an_outage_is_not_retried_by_itself_and_then_held_back(stage: Stage) -> None:
    install_id = await due(stage)
    stage.fault(REFRESH, None, status=503, body="upstream connect error")
    for _ in range(3):
        with pytest.raises(SegmentUnavailable):
            await stage.tokens.access_token(install_id)
    assert refreshes(stage) == 3
    with pytest.raises(AccessHeldBack) as held:
        await stage.tokens.access_token(install_id)
    assert refreshes(stage) == 3
    assert held.value.retry_after is not None
    assert 0 < held.value.retry_after <= 60


async def test_tk_15_what_segment_asks_for_in_retry_after_is_obeyed(stage: Stage) -> None:
    install_id = await due(stage)
    stage.fault(REFRESH, status=429, body='{"error":"slow","code":8}', headers={"Retry-After": "120"})
    with pytest.raises(RateLimited):
        await stage.tokens.access_token(install_id)
    stage.clock.now += timedelta(seconds=119)
    with pytest.raises(AccessHeldBack):
        await stage.tokens.access_token(install_id)
    stage.clock.now += timedelta(seconds=1)
    assert is_live(stage, await stage.tokens.access_token(install_id))


async def test_tk_15_a_cached_answer_is_never_used(stage: Stage) -> None:
    install_id = await stage.install()
    obtained = set()
    for _ in range(3):
        stage.clock.now += LATER
        obtained.add(await stage.tokens.access_token(install_id))
    assert len(obtained) == 3
    assert refreshes(stage) == 3
    assert not {"if-none-match", "if-modified-since"} & set(stage.wire.of("GET", "/token")[-1].headers)


async def test_tk_10_a_refused_client_is_asked_once_and_then_rarely(stage: Stage) -> None:
    install_id = await due(stage)
    stage.fault(REFRESH, None, status=401, body='{"error":"invalid client credentials","code":16}')
    asked = []
    for minutes in (0, 0, 1, 1, 2, 2, 4):
        stage.clock.now += timedelta(minutes=minutes)
        with pytest.raises((AccessLost, AccessHeldBack)):
            await stage.tokens.access_token(install_id)
        asked.append(refreshes(stage))
    assert asked[:2] == [1, 1]
    assert asked[-1] <= 4
    assert (await row(stage, install_id)).access_token_ciphertext is not None


async def test_renew_asks_at_once_whatever_happened_before(stage: Stage) -> None:
    install_id = await stage.install()
    stage.fault(REFRESH, status=401, body='{"error":"invalid client credentials","code":16}')
    with pytest.raises(AccessHeldBack):
        await stage.tokens.renew(install_id)
    await stage.tokens.renew(install_id)
    assert refreshes(stage) == 2
    assert is_live(stage, await stage.access_token(install_id))
    with pytest.raises(KeyError):
        await stage.tokens.renew("ins_nobody")


async def test_a_forgotten_token_is_not_brought_back_by_a_refresh_under_way(stage: Stage) -> None:
    install_id = await due(stage)
    late = await hold(stage, install_id)
    async with stage.database.transaction() as session:
        await install_tokens.forget(session, install_id)
        now = stage.clock()
        assert not await token_leases.store(
            session, stage.encryption, late, "late", expires_at=now, now=now, still_failing=False
        )
    assert (await row(stage, install_id)).access_token_ciphertext is None


async def test_a_code_exchange_wins_over_a_refresh_under_way(stage: Stage) -> None:
    install_id = await due(stage)
    late = await hold(stage, install_id)
    async with stage.database.transaction() as session:
        now = stage.clock()
        await install_tokens.save(session, stage.encryption, install_id, "new", expires_at=now + LATER, now=now)
        assert not await token_leases.store(
            session, stage.encryption, late, "late", expires_at=now, now=now, still_failing=False
        )
    assert await stage.access_token(install_id) == "new"


async def test_note_refused_of_an_unknown_install_is_a_key_error(stage: Stage) -> None:
    with pytest.raises(KeyError):
        await stage.tokens.note_refused("ins_nobody", Unauthenticated(401, 16, "malformed token"))
    assert await stage.audited() == []
