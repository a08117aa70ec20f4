"""Connection states and turns, and the partner's functions that are told about them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment import HandlerInvalid, Subscription
from enable_with_segment.components.install_function import StateChange
from enable_with_segment.db.control.tables import InstallStatus
from enable_with_segment.installs.connection_state import ConnectionState, change_between, state_of
from tests.installs.provisioning.stage import Stage
from tests.installs.tokens.conftest import stage as stage_fixture

stage = stage_fixture


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (InstallStatus.PROVISIONING, None),
        (InstallStatus.AWAITING_CONFIRMATION, None),
        (InstallStatus.CONNECTED, ConnectionState.CONNECTED),
        (InstallStatus.RECEIVING, ConnectionState.CONNECTED),
        (InstallStatus.FAILED, ConnectionState.FAILING),
        (InstallStatus.NEEDS_RECONNECT, ConnectionState.FAILING),
        (InstallStatus.DISCONNECTING, None),
        (InstallStatus.DISCONNECTED, ConnectionState.REVOKED),
    ],
)
def test_what_a_status_means(status: InstallStatus, state: ConnectionState | None) -> None:
    assert state_of(status) is state


@given(st.lists(st.sampled_from(ConnectionState), max_size=20))
def test_every_story_is_told_without_repeating_and_recovery_follows_trouble(states: list[ConnectionState]) -> None:
    earlier: str | None = None
    told: list[StateChange] = []
    for state in states:
        turn = change_between(earlier, state)
        assert (turn is None) == (earlier == state)
        if turn is not None:
            told.append(turn)
        earlier = state.value
    for before, after in zip([None, *told], told, strict=False):
        if after is StateChange.RECOVERED:
            assert before in {StateChange.FAILING, StateChange.DRIFTED}
        if after is StateChange.CONNECTED:
            assert before in {None, StateChange.REVOKED}
        assert before is not after


def test_functions_are_checked_when_they_are_registered() -> None:
    crm = Subscription("acme-crm")

    async def odd(install: Any, event: Any) -> None: ...

    def plain(change: str) -> None: ...

    async def good(change: str) -> None: ...

    with pytest.raises(HandlerInvalid, match="'event'"):
        crm.on_install("failing")(odd)
    with pytest.raises(HandlerInvalid, match="async"):
        crm.on_install("failing")(plain)  # type: ignore[type-var]
    with pytest.raises(HandlerInvalid, match="'broken'"):
        crm.on_install("broken")(good)
    assert crm.on_install("failing", "recovered")(good) is good
    (registered,) = crm.install_functions
    assert registered.changes == {StateChange.FAILING, StateChange.RECOVERED}


async def test_functions_get_what_they_ask_for_and_only_their_turns(stage: Stage) -> None:
    told: list[object] = []

    @stage.subscription.on_install("connected")
    async def first(install: Any, change: str, reason: str | None, detail: str | None) -> None:
        told.append((install.account, install.install_id, change, reason, detail))

    @stage.subscription.on_install("revoked")
    async def second(detail: str | None) -> None:
        told.append(detail)

    install_id = await stage.install()
    await stage.worker.run_due()
    assert told == [("northwind", install_id, "connected", None, None)]
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    assert told[1:] == ["Disconnected on request: the destination is switched off and our access is erased."]


async def test_a_function_that_fails_is_called_again_later(stage: Stage) -> None:
    calls: list[str] = []

    @stage.subscription.on_install()
    async def shaky(change: str) -> None:
        calls.append(change)
        if len(calls) == 1:
            raise RuntimeError("the CRM is away")

    install_id = await stage.install()
    await stage.worker.run_due()
    assert calls == ["connected"]
    assert await stage.outcome(install_id) == ("connected", None)
    stage.clock.advance(minutes=1)
    await stage.worker.run_due()
    assert calls == ["connected", "connected"]
    assert await stage.open_entries(install_id) == []
