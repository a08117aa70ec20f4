"""The dashboard: who sees and does what, that nothing secret or unescaped is shown, and every act's audit entry."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlmodel import select

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import destinations, install_tokens, outbox
from enable_with_segment.db.control.install_tokens import Refusal
from enable_with_segment.db.control.tables import AuditEntry, InstallStatus, InstallToken
from enable_with_segment.db.event_log.records import EventFilter
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.observability.exposition import render
from enable_with_segment.oauth_app.operators.roles import Operator, Role
from enable_with_segment.oauth_app.web.dashboard.routes import ACTS, PAGES
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher
from tests.db.event_log.events import new_event
from tests.oauth_app.operations import SERVICE, Operations, crm, running_service

HOSTILE = "<script>alert('x')</script>\"'&{{7*7}}"
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin", "Origin": SERVICE}
WHY = {"reason": "asked for by the customer"}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Operations]:
    async with running_service(tmp_path) as running:
        yield running


async def _sign_in(service: Operations, role: Role = Role.OPERATOR) -> None:
    token = await service.services.operators.sessions.begin(Operator(f"{role.value}@acme.example", role), by="test")
    service.http.cookies.set("operator", token, domain="localhost.local")


async def _get(service: Operations, path: str) -> httpx.Response:
    return await service.http.get(f"{SERVICE}{path}")


async def _act(service: Operations, path: str, **fields: str) -> httpx.Response:
    return await service.http.post(f"{SERVICE}{path}", data={**WHY, **fields}, headers=SAME_ORIGIN)


async def _assert_audited(service: Operations, action: str, subject: str) -> None:
    (entry,) = await service.audited(action)
    assert (entry.actor, entry.subject, entry.reason) == ("operator:operator@acme.example", subject, WHY["reason"])


async def _dead_letter(service: Operations, message_id: str = "m-dead") -> int:
    """An event that its handler keeps failing on, given up."""
    _, key = await service.api_key()
    assert (await service.deliver(key, message_id, type="identify", event=None)).status_code == 202
    log = service.services.event_log
    later = utc_now()
    dispatcher = Dispatcher({"acme-crm": crm}, log, service.services.database, clock=lambda: later)
    for _ in range(40):
        await dispatcher.run_due()
        (found,) = await log.find(EventFilter(message_id=message_id))
        if found.state is EventState.DEAD_LETTER:
            return found.id
        later = max(later, found.available_at) + timedelta(seconds=1)
    raise AssertionError("it was never given up")


def _filled(path: str) -> str:
    return re.sub(r"\{\w+(?::path)?\}", "x", path)


@pytest.mark.parametrize("path", [path for path, _ in PAGES])
async def test_da_01_no_page_is_shown_without_a_session(service: Operations, path: str) -> None:
    for cookie in (None, "", "x" * 43, "é"):
        headers = {} if cookie is None else {b"Cookie": f"operator={cookie}".encode()}
        answer = await service.http.get(f"{SERVICE}{_filled(path)}", headers=headers)
        assert (answer.status_code, answer.content) == (303, b"")
        assert answer.headers["location"].startswith("/dashboard/sign-in?to=%2Fdashboard")


@pytest.mark.parametrize("path", [path for path, _ in ACTS])
async def test_da_01_no_act_without_session_role_origin_and_reason(service: Operations, path: str) -> None:
    url = f"{SERVICE}{_filled(path)}"
    assert (await service.http.post(url, data=WHY, headers=SAME_ORIGIN)).status_code == 401
    await _sign_in(service, Role.VIEWER)
    refused = await service.http.post(url, data=WHY, headers=SAME_ORIGIN)
    assert (refused.status_code, "viewer" in refused.text) == (403, True)
    await _sign_in(service)
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ):
        assert (await service.http.post(url, data=WHY, headers=headers)).status_code == 403
    for reason in ("", "   ", "x" * 201, "a\nb"):
        assert (await service.http.post(url, data={"reason": reason}, headers=SAME_ORIGIN)).status_code == 400
    assert (await service.http.get(url)).status_code in {404, 405}
    async with service.services.database.transaction() as session:
        written = (await session.exec(select(AuditEntry))).all()
    assert {entry.action for entry in written} == {"operator.sign_in"}


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
async def test_every_page_is_shown_and_offers_acts_to_operators_only(service: Operations, role: Role) -> None:
    install = await service.install()
    await _dead_letter(service)
    await _sign_in(service, role)
    for path, _ in PAGES:
        filled = path.replace("{install_id}", install.id).replace("{message_id:path}", "m-dead")
        page = await _get(service, filled)
        assert page.status_code == 200, filled
        assert 'name="reason"' not in page.text or role is Role.OPERATOR
        policy = page.headers["content-security-policy"]
        assert all(rule in policy for rule in ("default-src 'none'", "frame-ancestors 'none'", "form-action 'self'"))
        assert "unsafe" not in policy
        assert page.headers["cache-control"] == "no-store"
        assert "<script" not in page.text
        assert not re.search(r"(?:src|href|action)=\"(?!/|\?)", page.text), "nothing of anybody else's"


async def test_the_list_says_where_each_install_stands(service: Operations) -> None:
    """Contract case 122: workspace, source, status, last refresh, last event and last error."""
    now = utc_now()
    await service.install(
        "acct_9",
        source_name="workspaces/northwind/sources/mobile",
        status=InstallStatus.FAILED,
        status_detail="The catalog has no such destination.",
        last_event_at=now - timedelta(hours=3),
    )
    waiting = await service.install("acct_8", 2)
    async with service.services.database.transaction() as session:
        entry = await outbox.add(session, "provision", waiting.id, now=now)
        claimed = await outbox.claim(session, kinds=["provision"], owner="o", now=now, lease=timedelta(minutes=1))
        assert claimed is not None
        await outbox.postpone(session, entry, owner="o", until=now, error="SegmentUnavailable: 503")
    await _sign_in(service, Role.VIEWER)
    page = (await _get(service, "/dashboard")).text
    for text in ("acct_9", "northwind", "mobile", "failed", "3 h ago", "The catalog has no such", "never", ": 503"):
        assert text in page
    only = (await _get(service, "/dashboard?account=acct_8")).text
    assert "acct_8" in only
    assert "acct_9" not in only


async def test_case_122_the_operator_sees_every_install(service: Operations) -> None:
    for number in range(60):
        await service.install(f"acct_{number:02d}", number)
    await _sign_in(service, Role.VIEWER)
    first = (await _get(service, "/dashboard")).text
    (older,) = re.findall(r"/dashboard\?account=&amp;before=(ins_\w+)", first)
    second = (await _get(service, f"/dashboard?account=&before={older}")).text
    assert set(re.findall(r">(acct_\d\d)<", first + second)) == {f"acct_{number:02d}" for number in range(60)}


async def test_reconcile_queues_work_and_is_audited(service: Operations) -> None:
    install = await service.install()
    await _sign_in(service)
    answer = await _act(service, f"/dashboard/installs/{install.id}/reconcile")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/dashboard/installs/{install.id}")
    async with service.services.database.transaction() as session:
        (entry,) = await outbox.open_of_install(session, install.id)
    assert entry.kind == "provision"
    await _assert_audited(service, "operator.reconcile", install.id)


async def test_disconnect_is_shown_audited_and_takes_events_until_it_is_done(service: Operations) -> None:
    install = await service.install()
    async with service.services.database.transaction() as session:
        minted = await service.services.api_keys.mint(
            session, account="acct_1", component="acme-crm", install_id=install.id
        )
        await destinations.want(session, install.id, name="d", api_key_id=minted.id, desired={})
    await _sign_in(service)
    page = await _get(service, f"/dashboard/installs/{install.id}")
    assert minted.api_key not in page.text
    assert minted.api_key[-4:] in page.text
    assert (await _act(service, f"/dashboard/installs/{install.id}/disconnect")).status_code == 303
    assert (await service.stored_install(install.id)).status is InstallStatus.DISCONNECTING
    assert "disconnecting" in (await _get(service, f"/dashboard/installs/{install.id}")).text
    assert (await service.deliver(minted.api_key, "m-1")).status_code == 202
    await _assert_audited(service, "operator.disconnect", install.id)
    assert (await _act(service, f"/dashboard/installs/{install.id}/reconcile")).status_code == 409


async def test_a_disconnect_that_is_under_way_is_undone_by_keep(service: Operations) -> None:
    install = await service.install()
    await _sign_in(service)
    keep = f"/dashboard/installs/{install.id}/keep"
    assert "Keep…" not in (await _get(service, f"/dashboard/installs/{install.id}")).text
    await _act(service, f"/dashboard/installs/{install.id}/disconnect")
    assert "Keep…" in (await _get(service, f"/dashboard/installs/{install.id}")).text
    assert (await _act(service, keep)).status_code == 303
    assert (await service.stored_install(install.id)).status is InstallStatus.PROVISIONING
    await _assert_audited(service, "operator.keep", install.id)
    assert (await _act(service, keep)).status_code == 409
    assert (await _act(service, "/dashboard/installs/ins_00000000000000000000/keep")).status_code == 404


async def test_installs_that_turned_bad_together_are_named_everywhere(service: Operations) -> None:
    now = service.services.clock()
    refusal = Refusal("refresh_refused", now, "401 (code 16): invalid client credentials")
    for number in range(3):
        install = await service.install(number=number)
        async with service.services.database.transaction() as session:
            session.add(InstallToken(install_id=install.id, expires_at=now, refreshed_at=now))
            await session.flush()
            await install_tokens.note_refused(session, install.id, refusal, failures=1, retry_at=now)
    told = "Segment refuses 3 of 3 installs (401 (code 16): invalid client credentials)"
    ready = await service.http.get(f"{SERVICE}/readyz")
    assert ready.status_code == 200
    assert told in ready.json()["warnings"]["installs"]
    assert "SEGMENT_CLIENT_SECRET" in ready.json()["warnings"]["installs"]
    metrics = render(await service.services.store_metrics.families())
    assert "enable_with_segment_installs_refused_together 3" in metrics
    await _sign_in(service)
    assert told in (await _get(service, "/dashboard")).text


async def test_da_04_rotating_and_revoking_are_audited_with_their_reason(service: Operations) -> None:
    install = await service.install()
    key_id, key = await service.api_key()
    async with service.services.database.transaction() as session:
        await destinations.want(session, install.id, name="d", api_key_id=key_id, desired={})
    await service.token()
    (token,) = await service.services.api_tokens.list_all()
    await _sign_in(service)
    for path, action, subject in (
        (f"/dashboard/installs/{install.id}/rotate-key", "operator.rotate_key", install.id),
        (f"/dashboard/keys/{key_id}/revoke", "operator.revoke_api_key", key_id),
        (f"/dashboard/tokens/{token.id}/revoke", "operator.revoke_api_token", token.id),
    ):
        assert (await _act(service, path)).status_code == 303
        await _assert_audited(service, action, subject)
    assert (await service.deliver(key, "m-1")).status_code == 401
    assert (await _act(service, f"/dashboard/keys/{key_id}/revoke")).status_code == 404


async def test_a_dead_letter_shows_why_and_is_tried_again(service: Operations) -> None:
    event_id = await _dead_letter(service)
    await _sign_in(service)
    page = (await _get(service, "/dashboard/dead-letters")).text
    assert "ValueError" in page
    for wrong in ("", "x", "-1", "9" * 30):
        assert (await _act(service, "/dashboard/dead-letters/retry", id=wrong)).status_code == 400
    assert (await _act(service, "/dashboard/dead-letters/retry", id=str(event_id))).status_code == 303
    (found,) = await service.services.event_log.find(EventFilter(message_id="m-dead"))
    assert found.state is EventState.PENDING
    await _assert_audited(service, "operator.retry_dead_letters", f"event:{event_id}")


async def test_wh_16_bodies_are_masked_until_an_operator_says_why(service: Operations) -> None:
    _, key = await service.api_key()
    await service.deliver(key, "a/b c", userId="kim@mail.example", properties={"card": "4111", "gift": True})
    await _sign_in(service)
    page = await _get(service, "/dashboard/events/a%2Fb%20c")
    assert page.status_code == 200
    assert not re.search("kim@mail|4111", page.text)
    assert "Signed Up" in page.text
    shown = await _act(service, "/dashboard/payload", message_id="a/b c")
    assert "kim@mail.example" in shown.text
    await _assert_audited(service, "operator.show_payload", "a/b c")


async def test_a_disconnected_install_s_key_is_refused_by_this_process_at_once(service: Operations) -> None:
    install = await service.install()
    async with service.services.database.transaction() as session:
        minted = await service.services.api_keys.mint(
            session, account="acct_1", component="acme-crm", install_id=install.id
        )
    assert (await service.deliver(minted.api_key, "m-before")).status_code == 202
    await _sign_in(service)
    await _act(service, f"/dashboard/installs/{install.id}/disconnect")
    provisioner = service.services.provisioner
    assert provisioner is not None
    async with service.services.database.transaction() as session:
        (entry,) = await outbox.open_of_install(session, install.id)
    await provisioner.outbox_handlers()[entry.kind](entry)
    assert (await service.deliver(minted.api_key, "m-after")).status_code == 401


async def test_nothing_is_offered_to_be_shown_once_the_body_is_erased(service: Operations) -> None:
    _, key = await service.api_key()
    await service.deliver(key, "m-gone", userId="kim@mail.example")
    await _sign_in(service)
    assert "Show values" in (await _get(service, "/dashboard/events/m-gone")).text
    await service.deliver(key, "m-delete", type="delete", userId="kim@mail.example")
    await Dispatcher({"acme-crm": crm}, service.services.event_log, service.services.database).run_due()
    page = (await _get(service, "/dashboard/events/m-gone")).text
    assert "It was erased." in page
    assert "Show values" not in page
    assert "values masked" not in page


async def test_events_are_found_by_what_they_are(service: Operations) -> None:
    _, key = await service.api_key()
    for number in range(3):
        await service.deliver(key, f"m-{number}", event=f"Event {number}")
    await _sign_in(service, Role.VIEWER)
    assert "Event 2" in (await _get(service, "/dashboard/events")).text
    one = (await _get(service, "/dashboard/events?message_id=m-1&state=pending&type=track&account=acct_1")).text
    assert "Event 1" in one
    assert "Event 2" not in one
    for nothing in ("account=other", "state=dead_letter", "account=%00", "type=alias", "install=x"):
        assert "No event matches" in (await _get(service, f"/dashboard/events?{nothing}")).text
    assert (await _get(service, "/dashboard/events?state=nonsense")).status_code == 200


async def test_older_events_are_a_link_away_and_the_filter_goes_along(service: Operations) -> None:
    log = service.services.event_log
    new = (new_event(f"m-{number:03}", account="a&b", type="track") for number in range(230))
    await asyncio.gather(*(log.append(event) for event in new))
    await _sign_in(service, Role.VIEWER)
    path, seen = "/dashboard/events?account=a%26b&type=track&state=&before=nonsense", list[str]()
    for count in (100, 100, 30):
        page = (await _get(service, path)).text
        shown = re.findall(r">(m-\d{3})<", page)
        assert len(shown) == count
        seen += shown
        link = re.search(r'<a href="([^"]*)">Look further back', page)
        path = unescape(link[1]) if link else ""
        assert ("Searched back to 2026-03-02 12:00:00 UTC" in page) is bool(path)
    assert path == ""
    assert seen == [f"m-{number:03}" for number in reversed(range(230))]
    for path in ("/dashboard/events?before=1", "/dashboard/dead-letters?before=999999999999999999999"):
        page = (await _get(service, path)).text
        assert "Look further back" not in page


async def test_da_02_no_page_shows_a_secret(service: Operations) -> None:
    install = await service.install()
    _, key = await service.api_key()
    minted = await service.services.api_tokens.mint("backend", [], lifetime=None, actor="cli")
    await service.deliver(key, "m-1")
    await _sign_in(service)
    cookie = service.http.cookies["operator"]
    for path, _ in PAGES:
        page = await _get(service, path.replace("{install_id}", install.id).replace("{message_id:path}", "m-1"))
        assert page.status_code == 200
        for secret in (key, minted.token, cookie, "reveal"):
            assert secret not in page.text


async def test_da_03_hostile_text_is_shown_and_not_obeyed(service: Operations) -> None:
    install = await service.install(
        HOSTILE, workspace_name=f"workspaces/{HOSTILE}", status_detail=HOSTILE, source_name=HOSTILE
    )
    _, key = await service.api_key(HOSTILE)
    message_id = f"m-{HOSTILE}"
    await service.deliver(key, message_id, event=HOSTILE, properties={HOSTILE: HOSTILE})
    await service.services.api_tokens.mint(HOSTILE, [], lifetime=None, actor=HOSTILE)
    await _sign_in(service)
    pages = [
        await _get(service, path)
        for path in (
            "/dashboard",
            f"/dashboard?account={quote(HOSTILE)}",
            f"/dashboard/installs/{install.id}",
            "/dashboard/events",
            f"/dashboard/events?account={quote(HOSTILE)}&type={quote(HOSTILE)}",
            "/dashboard/keys",
            f"/dashboard/audit?action={quote(HOSTILE)}",
            "/dashboard/audit",
        )
    ]
    pages.append(await _get(service, f"/dashboard/events/{quote(message_id, safe='')}"))
    pages.append(await _act(service, "/dashboard/payload", message_id=message_id))
    for page in pages:
        assert page.status_code == 200, page.url
        assert "<script" not in page.text
        assert "&lt;script&gt;" in page.text, page.url
        assert "{{7*7}}" in page.text


async def test_the_banner_says_that_the_service_is_stopped(service: Operations) -> None:
    from enable_with_segment.oauth_app.runtime.emergency_stop import stop_everything

    await _sign_in(service, Role.VIEWER)
    await stop_everything(service.services.database, actor="cli", reason="a drill", now=utc_now())
    service.services.panic._read_at = None
    assert "panic --lift" in (await _get(service, "/dashboard")).text
