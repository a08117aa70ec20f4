"""What cannot be undone, and what may cause it: one table, and the places in the code where it is done.

What is not in the table causes none of it: any answer of Segment alone, outages, and refusals that are not confirmed.
"""

from __future__ import annotations

import ast
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

import enable_with_segment
from enable_with_segment.db.control import emergency_stop, install_tokens, installs, outbox
from enable_with_segment.db.control.tables import ApiKey, InstallStatus, OutboxEntry
from enable_with_segment.http_client import httpx
from enable_with_segment.installs.reconciliation import RECONCILE
from enable_with_segment.installs.tokens import AccessHeldBack
from tests.installs.provisioning.stage import CONNECTED, HOURS, Stage
from tests.segment_api.wire import DESTINATION

REFRESH = "GET .*/token"
HTML = {"body": "<html>We will be back soon</html>", "content_type": "text/html"}
CODES = ((400, 3), (404, 5), (403, 7), (429, 8), (500, 13), (503, 14), (401, 16))
ANSWERS: dict[str, dict[str, Any]] = {
    **{f"{status} HTML": {"status": status, **HTML} for status in (200, 302, 403, 404, 408)},
    **{f"{status} empty": {"status": status} for status in (400, 404, 503)},
    "malformed JSON": {"malformed_json": True},
    "malformed JSON after the effect": {"malformed_json": True, "after": True},
    "reset": {"reset": True},
    "reset after the effect": {"reset": True, "after": True},
    **{
        f"{status} code {code}": {"status": status, "body": f'{{"error":"install not found","code":{code}}}'}
        for status, code in CODES
    },
    "500 already exists": {
        "status": 500,
        "body": '{"error":"destination already exists or other internal error","code":13}',
    },
}
NOT_FOUND = ANSWERS["404 code 5"]
ACTS = ("token", "keys", "overlap", "disconnected", "overwritten", "deleted", "given_up")
"""Erasing the token, revoking the keys, ending an old key, showing *disconnected*, replacing somebody's key in Segment,
deleting a destination, dropping work."""


@pytest.fixture
def stage(sqlite_stage: Stage) -> Stage:
    return sqlite_stage


async def ending_keys(stage: Stage, install_id: str) -> set[str]:
    """The keys whose overlap has begun."""
    async with stage.database.transaction() as session:
        keys = (await session.exec(select(ApiKey).where(ApiKey.install_id == install_id))).all()
    return {key.id for key in keys if key.revoked_at is None and key.expires_at is not None}


async def done_to(
    stage: Stage, install_id: str, *, was_foreign: bool = False, ended: frozenset[str] = frozenset()
) -> set[str]:
    """Which irreversible acts were done.

    Args:
        was_foreign: the destination held a key of somebody else.
        ended: the keys whose overlap had begun before.
    """
    async with stage.database.transaction() as session:
        token = await install_tokens.get(session, install_id)
        keys = (await session.exec(select(ApiKey).where(ApiKey.install_id == install_id))).all()
        entries = (await session.exec(select(OutboxEntry).where(OutboxEntry.install_id == install_id))).all()
    usable = [key for key in keys if key.revoked_at is None]
    destination = stage.sandbox.state.world.destinations.get(DESTINATION)
    found = {
        "token": token is None or token.access_token_ciphertext is None,
        "keys": not usable,
        "overlap": bool(await ending_keys(stage, install_id) - ended),
        "disconnected": (await stage.row(install_id)).status is InstallStatus.DISCONNECTED,
        "overwritten": was_foreign and (destination is None or destination.config["apiKey"] != "foreign"),
        "deleted": destination is None,
        "given_up": any(entry.finished_at is not None and entry.last_error is not None for entry in entries),
    }
    return {act for act, is_done in found.items() if is_done}


async def connected(stage: Stage) -> str:
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED
    stage.clock.advance(hours=1)  # so that the next call refreshes the token
    return install_id


async def look(stage: Stage, install_id: str) -> None:
    async with stage.database.transaction() as session:
        await outbox.add(session, RECONCILE, install_id, now=stage.clock())
    await stage.worker.run_due()


Cause = Callable[[Stage, str], Awaitable[None]]


async def a_removal_reported_twice(stage: Stage, install_id: str) -> None:
    stage.fault(REFRESH, None, **NOT_FOUND)
    await look(stage, install_id)
    await stage.work_for(minutes=15)
    assert (await stage.outcome(install_id))[1] == "removal_reported"
    await stage.work_for(hours=71)


async def a_removal_and_no_event_for_the_grace(stage: Stage, install_id: str) -> None:
    await a_removal_reported_twice(stage, install_id)
    await stage.work_for(hours=2)


async def a_removal_while_events_arrive(stage: Stage, install_id: str) -> None:
    stage.fault(REFRESH, None, **NOT_FOUND)
    await look(stage, install_id)
    for _ in range(8):
        async with stage.database.transaction() as session:
            await installs.mark_receiving(session, install_id, now=stage.clock())
        await stage.work_for(hours=24)


async def a_removal_of_many_together(stage: Stage, install_id: str) -> None:
    others = await stage.installs(4)
    await stage.worker.run_due()
    stage.clock.advance(hours=1)
    stage.fault(REFRESH, None, **NOT_FOUND)
    for each in (install_id, *others):
        await look(stage, each)
    await stage.work_for(hours=80, at_most_every=HOURS)
    async with stage.database.transaction() as session:  # the sweep's next look, which begins anew
        for entry in await outbox.open_of_install(session, install_id):
            assert entry.kind == RECONCILE


async def refused_refreshes_for_a_month(stage: Stage, install_id: str) -> None:
    stage.fault(REFRESH, None, **ANSWERS["401 code 16"])
    for _ in range(30):
        await look(stage, install_id)
        await stage.work_for(days=1, at_most_every=HOURS)
    assert (await stage.outcome(install_id))[1] == "refresh_refused"


async def an_outage_of_71_hours(stage: Stage, install_id: str) -> None:
    stage.fault(".*", None, status=404, **HTML)
    await stage.provisioner.rotate_key(install_id, actor="operator")
    await stage.work_for(hours=71, at_most_every=HOURS)


async def an_outage_of_73_hours(stage: Stage, install_id: str) -> None:
    await an_outage_of_71_hours(stage, install_id)
    await stage.work_for(hours=2)


async def a_disconnect_that_is_asked_for(stage: Stage, install_id: str) -> None:
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.work_for(minutes=1)


async def a_disconnect_with_delete(stage: Stage, install_id: str) -> None:
    await stage.provisioner.disconnect(install_id, delete=True, actor="operator")
    await stage.work_for(minutes=1)


async def a_disconnect_and_an_outage_of_71_hours(stage: Stage, install_id: str) -> None:
    stage.fault(".*", None, status=503)
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.work_for(hours=71, at_most_every=HOURS)


async def a_disconnect_and_an_outage_of_73_hours(stage: Stage, install_id: str) -> None:
    await a_disconnect_and_an_outage_of_71_hours(stage, install_id)
    await stage.work_for(hours=2)


async def a_disconnect_that_is_refused_for_71_hours(stage: Stage, install_id: str) -> None:
    stage.fault("(PATCH|GET) .*destinations.*", None, **ANSWERS["403 code 7"])
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.work_for(hours=71, at_most_every=HOURS)


async def a_rotation_that_segment_shows(stage: Stage, install_id: str) -> None:
    await stage.provisioner.rotate_key(install_id, actor="operator")
    await stage.work_for(minutes=1)


async def a_foreign_key_and_the_policy_repair(stage: Stage, install_id: str) -> None:
    stage.reconciler._policy = "repair"
    stage.destination().config["apiKey"] = "foreign"
    stage.destination().enabled = False
    await look(stage, install_id)
    await stage.work_for(minutes=1)
    assert (await stage.outcome(install_id))[0] == "awaiting_confirmation"


async def a_foreign_key_and_the_customers_word(stage: Stage, install_id: str) -> None:
    await a_foreign_key_and_the_policy_repair(stage, install_id)
    await stage.provisioner.provision(install_id, overwrite=True)


async def erasing_everything_by_a_typed_word(stage: Stage, install_id: str) -> None:
    del install_id
    async with stage.database.transaction() as session:
        await emergency_stop.erase_secrets(session, now=stage.clock())


TABLE: list[tuple[Cause, set[str]]] = [
    (a_removal_reported_twice, set()),
    (a_removal_and_no_event_for_the_grace, {"token", "keys", "disconnected"}),
    (a_removal_while_events_arrive, set()),
    (a_removal_of_many_together, {"given_up"}),  # the look, which comes again the next day
    (refused_refreshes_for_a_month, set()),
    (an_outage_of_71_hours, set()),
    (an_outage_of_73_hours, {"given_up"}),
    (a_disconnect_that_is_asked_for, {"token", "keys", "disconnected"}),
    (a_disconnect_with_delete, {"token", "keys", "disconnected", "deleted"}),
    (a_disconnect_and_an_outage_of_71_hours, set()),
    (a_disconnect_and_an_outage_of_73_hours, {"token", "keys", "disconnected", "given_up"}),
    (a_disconnect_that_is_refused_for_71_hours, set()),
    (a_rotation_that_segment_shows, {"overlap"}),
    (a_foreign_key_and_the_policy_repair, set()),
    (a_foreign_key_and_the_customers_word, {"overwritten"}),
    (erasing_everything_by_a_typed_word, {"token", "keys"}),
]


def test_every_irreversible_act_has_a_cause() -> None:
    assert set().union(*(acts for _, acts in TABLE)) == set(ACTS)


@pytest.mark.parametrize(("cause", "acts"), TABLE, ids=[cause.__name__ for cause, _ in TABLE])
async def test_a_cause_does_what_the_table_says_and_nothing_else(stage: Stage, cause: Cause, acts: set[str]) -> None:
    install_id = await connected(stage)
    await cause(stage, install_id)
    assert await done_to(stage, install_id, was_foreign="foreign" in cause.__name__) == acts


async def begin(stage: Stage, act: str, install_id: str) -> None:
    match act:
        case "look":
            await look(stage, install_id)
        case "rotate":
            await stage.provisioner.rotate_key(install_id, actor="operator")
        case _:
            await stage.provisioner.disconnect(install_id, actor="operator")


def strike(stage: Stage, at: int, answer: str) -> list[str]:
    """Let one request get an odd answer, counted from 0; returns the routes that are asked."""
    routes: list[str] = []

    def before(request: httpx.Request) -> None:
        if len(routes) == at:
            stage.fault(".*", **ANSWERS[answer])
        routes.append(f"{request.method} {request.url.path}")

    stage.wire.before = before
    return routes


@pytest.mark.parametrize("answer", list(ANSWERS))
@pytest.mark.parametrize("act", ["look", "rotate", "disconnect"])
async def test_one_answer_does_nothing_irreversible_wherever_it_comes(stage: Stage, act: str, answer: str) -> None:
    """At each request of an act in turn: nothing is done but what was asked for, and that is done in the end."""
    install_id = await connected(stage)
    asked_for = {"look": set[str](), "rotate": {"overlap"}, "disconnect": {"token", "keys", "disconnected"}}[act]
    for step in range(8):
        ended = frozenset(await ending_keys(stage, install_id))
        routes = strike(stage, step, answer)
        await begin(stage, act, install_id)
        await stage.worker.run_due()
        done = await done_to(stage, install_id, ended=ended)
        stage.sandbox.state.faults.clear()
        if len(routes) <= step:
            break
        held = stage.destination().config["apiKey"], stage.destination().enabled
        if await stage.open_entries(install_id):
            assert done == set(), f"after the odd answer to {routes[step]}"
        assert done <= asked_for
        stage.wire.before = None
        await stage.work_for(minutes=30)
        assert not await stage.open_entries(install_id), "it was finished by itself"
        assert await done_to(stage, install_id, ended=ended) == asked_for
        if act == "disconnect":
            assert not stage.destination().enabled
            assert await stage.outcome(install_id) == ("disconnected", "disconnected_by_request")
            async with stage.database.transaction() as session:
                await installs.set_status(session, install_id, InstallStatus.PROVISIONING, now=stage.clock())
            await stage.provisioner.provision(install_id)
        else:
            assert held[1]
        assert await stage.outcome(install_id) == CONNECTED
        assert stage.destination().config["apiKey"] == await stage.clear_key(install_id)
        stage.clock.advance(hours=1)  # so that the next call refreshes the token
    assert step == {"look": 2, "rotate": 4, "disconnect": 3}[act], "every request had its turn"


async def test_a_refusal_in_between_of_another_kind_confirms_nothing(stage: Stage) -> None:
    install_id = await connected(stage)
    for answer in ("404 code 5", "404 HTML", "401 code 16", "404 code 5", "503 empty"):
        stage.fault(REFRESH, 2, **ANSWERS[answer])
        with pytest.raises(AccessHeldBack if "code" in answer else Exception):
            await stage.tokens.renew(install_id)
        stage.sandbox.state.faults.clear()
        stage.clock.advance(minutes=6)
    assert await done_to(stage, install_id) == set()
    assert await stage.outcome(install_id) == CONNECTED


IRREVERSIBLE = {
    "revoke_of_install": {"installs/removal.py": 1, "installs/api_keys.py": 1},
    "forget_token": {"installs/removal.py": 1},
    "erase_access": {"installs/removal.py": 1, "installs/provisioning/provisioner.py": 1},
    "expire": {"installs/provisioning/records.py": 1, "installs/api_keys.py": 1, "oauth_app/cli/accounts.py": 1},
    "delete_destination": {"installs/provisioning/calls.py": 1},
    "erase_secrets": {"oauth_app/runtime/emergency_stop.py": 1},
}
"""Where irreversible functions are called. A new place belongs into the table above first."""


def test_what_cannot_be_undone_is_done_in_few_places() -> None:
    root = Path(enable_with_segment.__file__).resolve().parent.parent
    found: dict[str, dict[str, int]] = {}
    for package in ("installs", "oauth_app", "subscriptions", "db/control"):
        for path in sorted((root / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
                    continue
                name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                if name == "forget" and "install_tokens" in ast.unparse(node.func):
                    name = "forget_token"
                if name in IRREVERSIBLE:
                    where = found.setdefault(name, {})
                    place = str(path.relative_to(root))
                    where[place] = where.get(place, 0) + 1
    assert found == IRREVERSIBLE
