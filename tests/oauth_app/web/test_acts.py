"""Every act on an install for every state it can be in: what fits is done, everything else is 409 and has no button."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import api_keys as stored_keys
from enable_with_segment.db.control import installs, outbox
from enable_with_segment.db.control.tables import AuditEntry, Install, InstallStatus, InstallToken
from enable_with_segment.installs.acts import ActRefused, InstallAct, why_not
from enable_with_segment.oauth_app.operators.roles import Operator, Role
from enable_with_segment.oauth_app.runtime.stores import open_stores
from enable_with_segment.oauth_app.runtime.wiring import segment_of
from enable_with_segment.segment_api.errors import SegmentUnavailable
from tests.oauth_app.operations import SERVICE, Operations, running_service

ACTS = ("reconcile", "rotate_key", "refresh", "disconnect", "keep", "retry", "overwrite")
TABLE = """
provisioning            reconcile -          refresh disconnect -    -     -
awaiting_confirmation   reconcile -          refresh disconnect -    -     overwrite
connected               reconcile rotate_key refresh disconnect -    -     -
receiving               reconcile rotate_key refresh disconnect -    -     -
drifted                 reconcile rotate_key refresh disconnect -    retry -
failed                  reconcile -          refresh disconnect -    retry -
failed_without_source   -         -          refresh disconnect -    -     -
needs_reconnect         reconcile -          refresh disconnect -    -     -
removal_reported        reconcile -          refresh disconnect keep -     -
disconnecting           -         -          -       -          keep -     -
disconnected            -         -          -       -          -    -     -
disconnected_removed    -         -          -       -          -    -     -
disconnected_left_on    -         -          -       disconnect -    -     -
"""
STATES: dict[str, dict[str, Any]] = {
    **{status.value: {"status": status} for status in InstallStatus},
    "drifted": {
        "status": InstallStatus.CONNECTED,
        "connection_state": "drifted",
        "connection_reason": "destination_disabled",
    },
    "failed_without_source": {
        "status": InstallStatus.FAILED,
        "status_reason": "scope_without_source",
        "source_name": None,
    },
    "removal_reported": {"status": InstallStatus.NEEDS_RECONNECT, "status_reason": "removal_reported"},
    "disconnected_removed": {"status": InstallStatus.DISCONNECTED, "status_reason": "install_removed"},
    "disconnected_left_on": {"status": InstallStatus.DISCONNECTED, "status_reason": "destination_left_on"},
}
ROWS = {line.split()[0]: set(line.split()[1:]) - {"-"} for line in TABLE.strip().splitlines()}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Operations]:
    async with running_service(tmp_path) as running:
        token = await running.services.operators.sessions.begin(
            Operator("operator@acme.example", Role.OPERATOR), by="test"
        )
        running.http.cookies.set("operator", token, domain="localhost.local")
        yield running


def test_the_table_names_every_state_and_every_act() -> None:
    assert ROWS.keys() == STATES.keys()
    assert set(ACTS) == set(InstallAct) == set.union(*ROWS.values())


@pytest.mark.parametrize("state", list(ROWS))
def test_the_decision_is_the_table(state: str) -> None:
    fields = {"source_name": "workspaces/northwind/sources/web", **STATES[state]}
    refusals = {act: why_not(act, Install(**fields)) for act in InstallAct}
    assert {act.value for act, refusal in refusals.items() if refusal is None} == ROWS[state]
    assert all(refusal.endswith(".") for refusal in refusals.values() if refusal)


async def _traces(service: Operations, install_id: str) -> tuple[object, ...]:
    """Everything that an act could leave behind."""
    async with service.services.database.transaction() as session:
        install = await installs.get(session, install_id)
        entries = (await session.exec(select(AuditEntry).where(AuditEntry.subject == install_id))).all()
        return (
            None if install is None else install.model_dump(),
            [entry.kind for entry in await outbox.open_of_install(session, install_id)],
            [key.id for key in await stored_keys.list_all(session) if key.install_id == install_id],
            len(entries),
        )


async def _installs(service: Operations) -> dict[str, str]:
    """An install for each state; returns their ids."""
    made = {}
    for number, (state, fields) in enumerate(STATES.items()):
        install = await service.install(number=number, **fields)
        made[state] = install.id
        async with service.services.database.transaction() as session:
            session.add(InstallToken(install_id=install.id, expires_at=install.created_at, refreshed_at=utc_now()))
    return made


@pytest.mark.parametrize("act", ["reconcile", "rotate_key", "disconnect", "keep"])
async def test_the_dashboard_offers_and_does_what_fits(service: Operations, act: str) -> None:
    for state, install_id in (await _installs(service)).items():
        fits = act in ROWS[state]
        action = f"/dashboard/installs/{install_id}/{act.replace('_', '-')}"
        page = await service.http.get(f"{SERVICE}/dashboard/installs/{install_id}")
        assert (f'action="{action}"' in page.text) is fits, state
        before = await _traces(service, install_id)
        answer = await service.http.post(
            f"{SERVICE}{action}", data={"reason": "a test"}, headers={"Sec-Fetch-Site": "same-origin"}
        )
        assert answer.status_code == (303 if fits else 409), state
        assert (await _traces(service, install_id) == before) is not fits, state


@pytest.mark.parametrize("act", ["retry", "overwrite"])
async def test_the_status_page_offers_and_does_what_fits(service: Operations, act: str) -> None:
    for state, install_id in (await _installs(service)).items():
        fits = act in ROWS[state]
        link = service.services.status_links.make(install_id, now=service.services.clock())
        url = f"{SERVICE}/status/{link}"
        page = await service.http.get(url)
        assert (f'name="action" value="{act}"' in page.text) is fits, state
        before = await _traces(service, install_id)
        answer = await service.http.post(url, data={"action": act})
        assert answer.status_code == (303 if fits else 409), state
        if fits:
            assert (await service.stored_install(install_id)).status is InstallStatus.PROVISIONING
            assert (await service.http.post(url, data={"action": act})).status_code == 409, "pressed twice"
        else:
            assert await _traces(service, install_id) == before, state
            assert answer.text == page.text, "the page shows how it stands now"


async def test_the_parts_behind_dashboard_and_commands_refuse_what_does_not_fit(service: Operations) -> None:
    provisioner, made = service.services.provisioner, await _installs(service)
    assert provisioner is not None
    for state, install_id in made.items():
        before = await _traces(service, install_id)
        if "rotate_key" not in ROWS[state]:
            with pytest.raises(ActRefused):
                await provisioner.rotate_key(install_id, actor="cli")
        if "disconnect" not in ROWS[state]:
            with pytest.raises(ActRefused):
                await provisioner.disconnect(install_id, actor="cli")
        assert await _traces(service, install_id) == before, state
    async with open_stores(service.settings) as stores, segment_of(service.settings, stores) as segment:
        assert segment is not None
        for state, install_id in made.items():
            with pytest.raises(SegmentUnavailable if "refresh" in ROWS[state] else ActRefused):
                await segment.tokens.renew(install_id)
