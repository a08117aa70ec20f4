"""Provisioning against the sandbox: contract cases 39 and 43 to 62."""

from __future__ import annotations

import json
import logging

import pytest

from db.control import api_keys as stored_keys
from db.control import installs, outbox
from db.control.tables import InstallStatus
from db.database import Database
from db.encryption import EncryptionKeys
from segment_api.errors import InvalidAnswer, RateLimited, SegmentUnavailable
from segment_api.names import workspace_name
from segment_sandbox import Sandbox, SandboxConfig
from segment_sandbox.destinations import MASKED
from subscriptions.api_keys import ApiKeys
from subscriptions.key_recognition import KeyState
from subscriptions.provisioning.provisioner import PROVISION
from tests.provisioning.stage import Stage
from tests.segment_api.wire import DESTINATION, SOURCE

DESTINATIONS = f"/v1beta/{SOURCE}/destinations"
ONE = f"/v1beta/{DESTINATION}"
CONNECTED = ("connected", None)
UPSTREAM = "upstream connect error or disconnect/reset before headers"
EXISTS = '{"error":"destination already exists or other internal error","code":13}'


async def test_case_043_create_sends_the_full_names_the_key_and_enabled(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    (create,) = stage.wire.of("POST")
    assert create.path == DESTINATIONS
    assert create.json == {
        "destination": {
            "name": DESTINATION,
            "connection_mode": "CLOUD",
            "config": [{"name": f"{DESTINATION}/config/apiKey", "value": await stage.clear_key(install_id)}],
            "enabled": True,
        }
    }
    assert create.headers["content-type"] == "application/json"
    assert create.headers["authorization"] == f"Bearer {await stage.access_token(install_id)}"


async def test_case_043_custom_settings_are_the_components_under_the_customers(
    database: Database, encryption: EncryptionKeys, api_keys: ApiKeys
) -> None:
    stage = Stage(database, encryption, api_keys, defaults={"region": "us", "unknown": "left out"})
    await stage.install(settings={"region": "eu"})
    await stage.worker.run_due()
    assert stage.wire.routes().index("GET /v1beta/catalog/destinations/acme-crm") < stage.wire.routes().index(
        f"POST {DESTINATIONS}"
    )
    config = stage.wire.of("POST")[0].json["destination"]["config"]
    assert [entry["name"] for entry in config] == [
        f"{DESTINATION}/config/apiKey",
        f"{DESTINATION}/config/region",
    ]
    assert stage.destination().config["region"] == "eu"
    await stage.close()


@pytest.mark.parametrize("refusal", [(403, 7), (401, 16), (404, 5), (503, None)])
async def test_a_catalog_that_cannot_be_read_stops_nothing(stage: Stage, refusal: tuple[int, int | None]) -> None:
    status, code = refusal
    body = UPSTREAM if code is None else f'{{"error":"no","code":{code}}}'
    stage.fault("GET /v1beta/catalog/.*", None, status=status, body=body)
    install_id = await stage.install(settings={"region": "eu"})
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED
    assert stage.destination().config["region"] == "eu"
    assert not stage.wire.of("GET", "/token")


@pytest.mark.parametrize("status", ["200", "201"])
async def test_case_044_created_is_connected_and_read_back(stage: Stage, status: str) -> None:
    stage.sandbox.state.set_switches({"create_status": status})
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED
    assert stage.wire.routes()[-2:] == [f"POST {DESTINATIONS}", f"GET {ONE}"]
    assert stage.destination().enabled
    assert stage.destination().config["apiKey"] == await stage.clear_key(install_id)
    assert await stage.stored_destination(install_id) == {
        "desired": {"enabled": True, "settings": {}, "applied": True, "ours": True},
        "seen": {"enabled": True, "key": "wanted"},
        "verified": True,
    }
    assert await stage.open_entries(install_id) == []


async def check_exists_is_confirmed_by_a_get(stage: Stage, answer: str) -> None:
    stage.sandbox.state.set_switches({"destination_exists": answer})
    stage.put_destination(api_key="somebody", enabled=False)
    stage.fault(f"GET {ONE}", status=404, body='{"error":"destination not found","code":5}')
    install_id = await stage.install()
    await stage.worker.run_due()
    assert stage.wire.routes() == [
        f"GET {ONE}",
        f"POST {DESTINATIONS}",
        f"GET {ONE}",
        f"PATCH {ONE}",
        f"GET {ONE}",
    ]
    assert stage.wire.of("POST")[0].status == int(answer)
    assert await stage.outcome(install_id) == CONNECTED
    assert stage.destination().enabled
    assert stage.destination().config["apiKey"] == await stage.clear_key(install_id)


async def test_case_045_exists_as_500_is_confirmed_by_a_get_and_patched(stage: Stage) -> None:
    await check_exists_is_confirmed_by_a_get(stage, "500")


async def test_case_046_exists_as_409_is_confirmed_by_a_get_and_patched(stage: Stage) -> None:
    await check_exists_is_confirmed_by_a_get(stage, "409")


async def test_case_045_exists_without_a_code_counts_by_its_words(stage: Stage) -> None:
    stage.put_destination(api_key="somebody", enabled=False)
    stage.fault(f"GET {ONE}", status=404, body='{"error":"destination not found","code":5}')
    stage.fault("POST /v1beta/.*", status=400, body='{"error":"Destination already exists"}')
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED


async def test_case_047_code_13_and_nothing_there_creates_once_more(stage: Stage) -> None:
    stage.fault("POST /v1beta/.*", status=500, body=EXISTS)
    install_id = await stage.install()
    await stage.worker.run_due()
    assert [sent.method for sent in stage.wire.sent] == ["GET", "POST", "GET", "POST", "GET"]
    assert await stage.outcome(install_id) == CONNECTED


async def test_case_047_twice_code_13_is_an_error_that_shows(stage: Stage) -> None:
    stage.fault("POST /v1beta/.*", None, status=500, body=EXISTS)
    install_id = await stage.install()
    await stage.worker.run_due()
    assert len(stage.wire.of("POST")) == 2
    assert await stage.outcome(install_id) == ("failed", "destination_create_failed")
    assert "Try again" in ((await stage.row(install_id)).status_detail or "")
    assert await stage.open_entries(install_id) == []


async def test_a_first_look_that_fails_with_code_13_does_not_stop_the_create(stage: Stage) -> None:
    stage.fault(f"GET {ONE}", status=500, body='{"error":"internal","code":13}')
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED


async def test_case_048_the_mask_stands_outside_with_three_paths(stage: Stage) -> None:
    stage.put_destination(api_key="somebody", enabled=False, region="eu")
    install_id = await stage.install()
    await stage.worker.run_due()
    (patch,) = stage.wire.of("PATCH")
    assert patch.json == {
        "destination": {
            "name": DESTINATION,
            "enabled": True,
            "connection_mode": "CLOUD",
            "config": [{"name": f"{DESTINATION}/config/apiKey", "value": await stage.clear_key(install_id)}],
        },
        "update_mask": {"paths": ["destination.enabled", "destination.config", "destination.connection_mode"]},
    }
    assert stage.destination().config["region"] == "eu"


async def test_case_049_no_masked_path_is_without_a_value(stage: Stage) -> None:
    stage.put_destination(api_key="somebody", enabled=False)
    install_id = await stage.install()
    await stage.worker.run_due()
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    bodies = [sent.json for sent in stage.wire.of("PATCH")]
    assert len(bodies) == 2
    for body in bodies:
        given = {f"destination.{field}" for field, value in body["destination"].items() if value not in (None, [])}
        assert given - {"destination.name"} == set(body["update_mask"]["paths"])


async def test_case_053_unknown_fields_and_settings_in_answers_are_ignored(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    entry = {"name": f"{DESTINATION}/config/apiKey", "value": await stage.clear_key(install_id), "x": 1}
    odd = [None, 7, {"value": "nameless"}, {"name": f"{DESTINATION}/config/endpoint", "value": {"deep": []}}]
    body = json.dumps({"name": DESTINATION, "enabled": True, "config": [entry, *odd], "quota": {"left": 3}})
    stage.fault("GET .*destinations.*", status=200, body=body)
    await stage.provisioner.provision(install_id)
    assert await stage.outcome(install_id) == CONNECTED
    assert not stage.wire.of("PATCH")


async def test_case_050_another_key_waits_for_the_customer(stage: Stage) -> None:
    stage.put_destination(api_key="somebody-elses", enabled=True)
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("awaiting_confirmation", "key_differs")
    assert stage.destination().config["apiKey"] == "somebody-elses"
    assert not stage.wire.of("PATCH")
    await stage.provisioner.provision(install_id, overwrite=True)
    assert await stage.outcome(install_id) == CONNECTED
    assert stage.destination().config["apiKey"] == await stage.clear_key(install_id)


async def test_case_050_the_partner_may_decide_never_to_ask(
    database: Database, encryption: EncryptionKeys, api_keys: ApiKeys
) -> None:
    stage = Stage(database, encryption, api_keys, overwrite_policy="always")
    stage.put_destination(api_key="somebody-elses", enabled=True)
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED
    await stage.close()


async def test_case_050_a_key_of_the_same_account_is_no_strangers(stage: Stage) -> None:
    async with stage.database.transaction() as session:
        pasted = await stage.api_keys.mint(session, account="northwind", component="acme-crm")
    stage.put_destination(api_key=pasted.api_key, enabled=True)
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED
    assert stage.destination().config["apiKey"] == await stage.clear_key(install_id)


async def test_case_050_a_key_of_another_account_is_a_strangers(stage: Stage) -> None:
    async with stage.database.transaction() as session:
        pasted = await stage.api_keys.mint(session, account="contoso", component="acme-crm")
    stage.put_destination(api_key=pasted.api_key, enabled=True)
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("awaiting_confirmation", "key_differs")


async def test_case_051_the_right_key_and_enabled_needs_no_patch(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    stage.wire.sent.clear()
    await stage.provisioner.provision(install_id)
    assert stage.wire.routes() == [f"GET {ONE}"]
    assert await stage.outcome(install_id) == CONNECTED


async def test_case_051_a_masked_key_of_an_enabled_destination_asks_too(stage: Stage) -> None:
    stage.sandbox.state.set_switches({"mask_sensitive_settings": True})
    stage.put_destination(api_key="who-knows", enabled=True)
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("awaiting_confirmation", "key_differs")


async def set_settings(stage: Stage, install_id: str, settings: dict[str, object]) -> None:
    async with stage.database.transaction() as session:
        install = await installs.get(session, install_id)
        assert install is not None
        install.settings = settings
        session.add(install)


async def test_settings_that_were_chosen_anew_are_written(stage: Stage) -> None:
    install_id = await stage.install(settings={"region": "us"})
    await stage.worker.run_due()
    await set_settings(stage, install_id, {"region": "eu"})
    await stage.provisioner.provision(install_id)
    assert stage.destination().config["region"] == "eu"
    assert await stage.outcome(install_id) == CONNECTED


async def test_what_the_customer_changed_in_segment_afterwards_stays(stage: Stage) -> None:
    install_id = await stage.install(settings={"region": "us"})
    await stage.worker.run_due()
    stage.destination().config["region"] = "eu"
    await stage.provisioner.provision(install_id)
    await stage.provisioner.rotate_key(install_id, actor="operator")
    await stage.worker.run_due()
    assert stage.destination().config["region"] == "eu"
    assert stage.destination().config["apiKey"] == await stage.clear_key(install_id)


async def test_an_outage_during_a_later_look_leaves_a_working_install_alone(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    stage.fault(".*destinations.*", None, status=503, body=UPSTREAM)
    async with stage.database.transaction() as session:
        await outbox.add(session, PROVISION, install_id, now=stage.clock())
    await stage.worker.run_due()
    stage.clock.advance(hours=25)
    await stage.worker.run_due()
    assert await stage.open_entries(install_id) == []
    assert await stage.outcome(install_id) == CONNECTED


async def test_disconnecting_while_it_is_switched_on_ends_switched_off(stage: Stage) -> None:
    install_id = await stage.install()
    pressed = False

    async def provision_then(sent_route: str) -> None:
        nonlocal pressed
        if not pressed and sent_route.startswith("POST"):
            pressed = True
            await stage.provisioner.disconnect(install_id, actor="account:northwind")

    stage.wire.meanwhile = provision_then
    await stage.worker.run_due()
    await stage.worker.run_due()
    assert pressed
    assert await stage.outcome(install_id) == ("disconnected", "disconnected_by_request")
    assert not stage.destination().enabled


@pytest.mark.parametrize("mode", ["unspecified", "echo"])
async def test_case_052_the_connection_mode_in_the_answer_does_not_matter(stage: Stage, mode: str) -> None:
    stage.sandbox.state.set_switches({"connection_mode_answer": mode})
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED


async def test_case_054_a_scope_that_is_too_small_is_an_alarm(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.fault("(GET|POST) .*destinations.*", None, status=403, body='{"error":"insufficient scope","code":7}')
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("failed", "scope_too_small")
    assert [record.levelno for record in caplog.records if "scope_too_small" in record.message] == [logging.ERROR]
    assert await stage.open_entries(install_id) == []


async def test_case_055_a_source_that_is_gone_asks_to_connect_again(stage: Stage) -> None:
    install_id = await stage.install()
    del stage.sandbox.state.world.sources[SOURCE]
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("needs_reconnect", "source_gone")
    assert "“web-prod” no longer exists" in ((await stage.row(install_id)).status_detail or "")


async def test_case_056_429_waits_out_the_minute(stage: Stage) -> None:
    stage.fault("GET .*destinations.*", status=429, body='{"error":"rate limit exceeded","code":8}')
    install_id = await stage.install()
    await stage.worker.run_due()
    (entry,) = await stage.open_entries(install_id)
    assert (entry.available_at - stage.clock()).total_seconds() >= 60
    assert await stage.outcome(install_id) == ("provisioning", "segment_unavailable")
    assert await stage.worker.run_due() == 0
    stage.clock.advance(seconds=61)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED


async def test_case_056_provision_raises_what_the_outbox_waits_for(stage: Stage) -> None:
    stage.fault("GET .*destinations.*", status=429, body='{"error":"rate limit exceeded","code":8}')
    install_id = await stage.install()
    with pytest.raises(RateLimited):
        await stage.provisioner.provision(install_id)


async def test_case_057_503_in_plain_text_is_tried_again(stage: Stage) -> None:
    stage.fault("POST /v1beta/.*", 2, status=503, body=UPSTREAM, content_type="text/plain")
    install_id = await stage.install()
    for _ in range(3):
        await stage.worker.run_due()
        stage.clock.advance(minutes=1)
    assert await stage.outcome(install_id) == CONNECTED
    assert len(stage.wire.of("POST")) == 3


async def test_case_057_an_outage_of_a_day_is_given_up_and_shown(stage: Stage) -> None:
    stage.fault(".*destinations.*", None, status=503, body=UPSTREAM, content_type="text/plain")
    install_id = await stage.install()
    await stage.worker.run_due()
    stage.clock.advance(hours=24)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("failed", "segment_unavailable")
    assert await stage.open_entries(install_id) == []


async def test_an_unreadable_answer_is_tried_again(stage: Stage) -> None:
    stage.fault("GET .*destinations.*", status=200, body="<html>", content_type="text/html")
    install_id = await stage.install()
    with pytest.raises(InvalidAnswer):
        await stage.provisioner.provision(install_id)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED


async def test_refused_settings_are_shown_with_segments_words(stage: Stage) -> None:
    install_id = await stage.install(settings={"region": "mars"})
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("failed", "request_refused")
    assert "setting region has a value of the wrong type" in ((await stage.row(install_id)).status_detail or "")


async def test_case_058_disconnect_switches_off_and_revokes(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    key = await stage.clear_key(install_id)
    await stage.provisioner.disconnect(install_id, actor="account:northwind")
    assert (await stage.api_keys.look_up(key)).state is KeyState.REVOKED
    assert await stage.outcome(install_id) == ("disconnected", "disconnected_by_request")
    await stage.worker.run_due()
    (patch,) = stage.wire.of("PATCH")
    assert patch.json == {
        "destination": {"name": DESTINATION, "enabled": False},
        "update_mask": {"paths": ["destination.enabled"]},
    }
    assert not stage.destination().enabled
    assert stage.destination().config["apiKey"] == key
    with pytest.raises(AssertionError):
        await stage.access_token(install_id)


async def test_case_058_disconnect_may_delete(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    await stage.provisioner.disconnect(install_id, delete=True, actor="operator")
    await stage.worker.run_due()
    assert stage.wire.routes()[-1] == f"DELETE {ONE}"
    assert not stage.has_destination()


async def test_disconnect_waits_out_an_outage(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    stage.fault("PATCH .*", status=503, body=UPSTREAM)
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    assert stage.destination().enabled
    stage.clock.advance(minutes=1)
    await stage.worker.run_due()
    assert not stage.destination().enabled


async def test_a_disconnected_install_is_not_provisioned(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    assert not stage.has_destination()
    assert await stage.outcome(install_id) == ("disconnected", "disconnected_by_request")


async def test_connecting_again_after_a_disconnect_mints_a_new_key(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    first = await stage.clear_key(install_id)
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    async with stage.database.transaction() as session:
        await installs.set_status(session, install_id, InstallStatus.PROVISIONING, now=stage.clock())
    await stage.provisioner.provision(install_id)
    assert await stage.outcome(install_id) == CONNECTED
    assert stage.destination().enabled
    assert stage.destination().config["apiKey"] == await stage.clear_key(install_id) != first


async def test_case_059_rotation_overlaps_from_when_segment_has_the_new_key(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    old = await stage.clear_key(install_id)
    stage.fault("PATCH .*", status=503, body=UPSTREAM)
    await stage.provisioner.rotate_key(install_id, actor="operator")
    await stage.worker.run_due()
    assert len(await stage.usable_keys(install_id)) == 2, "the old key has no end while Segment still sends it"
    stage.clock.advance(minutes=1)
    await stage.worker.run_due()
    new = await stage.clear_key(install_id)
    assert stage.destination().config["apiKey"] == new != old
    assert await stage.outcome(install_id) == CONNECTED
    async with stage.database.transaction() as session:
        (replaced,) = [key for key in await stored_keys.list_all(session) if key.expires_at is not None]
    assert replaced.expires_at is not None
    assert (replaced.expires_at - stage.clock()).total_seconds() == 24 * 3600


@pytest.mark.parametrize("masked", [False, True])
async def test_case_059_rotation_never_asks_about_our_own_key(stage: Stage, masked: bool) -> None:
    stage.sandbox.state.set_switches({"mask_sensitive_settings": masked})
    install_id = await stage.install()
    await stage.worker.run_due()
    await stage.provisioner.rotate_key(install_id, actor="operator")
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED
    assert stage.destination().config["apiKey"] == await stage.clear_key(install_id)


async def test_rotation_of_an_install_without_a_destination_is_refused(stage: Stage) -> None:
    with pytest.raises(KeyError):
        await stage.provisioner.rotate_key(await stage.install(), actor="operator")


@pytest.mark.parametrize("style", ["prefixed", "bare"])
async def test_case_060_workspace_names_with_and_without_prefix_are_one(stage: Stage, style: str) -> None:
    stage.sandbox.state.set_switches({"workspace_name_style": style})
    granted = await stage.grant()
    assert granted.workspace_name == "workspaces/northwind" == workspace_name("northwind")
    install_id = await stage.save(granted)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED


async def test_case_061_destinations_are_never_listed(stage: Stage) -> None:
    stage.put_destination(api_key="somebody-elses", enabled=True)
    install_id = await stage.install(settings={"region": "eu"})
    await stage.worker.run_due()
    await stage.provisioner.provision(install_id, overwrite=True)
    await stage.provisioner.rotate_key(install_id, actor="operator")
    await stage.worker.run_due()
    await stage.provisioner.disconnect(install_id, delete=True, actor="operator")
    await stage.worker.run_due()
    assert len(stage.wire.sent) == 8
    assert f"GET {DESTINATIONS}" not in stage.wire.routes()


async def test_case_062_a_masked_key_counts_as_unknown_after_our_own_write(stage: Stage) -> None:
    stage.sandbox.state.set_switches({"mask_sensitive_settings": True})
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED
    assert (await stage.stored_destination(install_id))["seen"] == {"enabled": True, "key": "unknown"}
    assert stage.destination().config["apiKey"] != MASKED
    await stage.provisioner.provision(install_id)
    assert await stage.outcome(install_id) == CONNECTED
    assert not stage.wire.of("PATCH")


async def test_case_062_a_change_that_does_not_show_is_an_error(stage: Stage) -> None:
    stage.put_destination(api_key="somebody", enabled=False)
    body = f'{{"name":"{DESTINATION}","enabled":true,"config":[]}}'
    stage.fault("PATCH .*", None, status=200, body=body)
    install_id = await stage.install()
    await stage.worker.run_due()
    assert len(stage.wire.of("PATCH")) == 2
    assert await stage.outcome(install_id) == ("failed", "destination_update_failed")


async def test_a_destination_deleted_before_the_patch_is_created(stage: Stage) -> None:
    stage.put_destination(api_key="somebody", enabled=False)
    stage.fault("PATCH .*", status=404, body='{"error":"destination not found","code":5}')
    install_id = await stage.install()
    stage.wire.after = lambda sent: stage.sandbox.state.world.destinations.clear() if sent.method == "PATCH" else None
    await stage.worker.run_due()
    assert [sent.method for sent in stage.wire.sent] == ["GET", "PATCH", "GET", "POST", "GET"]
    assert await stage.outcome(install_id) == CONNECTED


async def test_the_first_event_during_provisioning_is_not_forgotten(stage: Stage) -> None:
    install_id = await stage.install()
    async with stage.database.transaction() as session:
        await installs.mark_receiving(session, install_id, now=stage.clock())
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("receiving", None)


async def test_a_receiving_install_stays_so_when_it_is_looked_at_again(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    async with stage.database.transaction() as session:
        await installs.mark_receiving(session, install_id, now=stage.clock())
    stage.clock.advance(minutes=5)
    await stage.provisioner.provision(install_id)
    assert await stage.outcome(install_id) == ("receiving", None)


async def test_an_install_without_a_source_says_so(stage: Stage) -> None:
    install_id = await stage.install(source=None, scope="workspace")
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("failed", "scope_without_source")
    assert stage.wire.sent == []


async def test_case_039_a_refused_token_is_refreshed_and_the_call_repeated_once(stage: Stage) -> None:
    stage.fault("GET .*destinations.*", status=401, body='{"error":"malformed token","code":16}')
    install_id = await stage.install()
    await stage.worker.run_due()
    assert [sent.path.rpartition("/")[2] for sent in stage.wire.sent[:3]] == ["acme-crm", "token", "acme-crm"]
    assert await stage.outcome(install_id) == CONNECTED


async def test_case_039_a_token_refused_again_ends_in_needs_reconnect(stage: Stage) -> None:
    stage.fault("GET .*destinations.*", None, status=401, body='{"error":"malformed token","code":16}')
    install_id = await stage.install()
    await stage.worker.run_due()
    assert len(stage.wire.sent) == 3
    assert await stage.outcome(install_id) == ("needs_reconnect", "token_rejected")
    assert "permission" in ((await stage.row(install_id)).status_detail or "")
    assert await stage.open_entries(install_id) == []


async def test_case_040_an_uninstalled_install_ends_disconnected(stage: Stage) -> None:
    install_id = await stage.install()
    stage.sandbox.state.world.uninstall((await stage.row(install_id)).install_name)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("disconnected", "install_removed")
    assert len(stage.wire.sent) == 2
    assert await stage.open_entries(install_id) == []


async def test_case_041_an_unavailable_refresh_is_waited_for(stage: Stage) -> None:
    install_id = await stage.install()
    stage.clock.advance(hours=2)
    stage.fault("GET .*/token", status=503, body=UPSTREAM)
    with pytest.raises(SegmentUnavailable):
        await stage.provisioner.provision(install_id)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED


@pytest.mark.parametrize("profile", ["documented", "observed", "hostile"])
async def test_every_profile_of_the_sandbox_ends_connected(
    database: Database, encryption: EncryptionKeys, api_keys: ApiKeys, profile: str
) -> None:
    stage = Stage(database, encryption, api_keys, sandbox=Sandbox(SandboxConfig(profile=profile)))
    install_id = await stage.install(settings={"region": "eu"})
    stage.clock.advance(hours=2)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED
    await stage.close()


async def test_no_secret_is_left_in_records_or_logs(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    install_id = await stage.install(settings={"region": "eu"})
    await stage.worker.run_due()
    key, token = await stage.clear_key(install_id), await stage.access_token(install_id)
    told = caplog.text + repr(await stage.stored_destination(install_id)) + repr(await stage.audited())
    assert key not in told
    assert token not in told
    actions = {entry.action for entry in await stage.audited()}
    assert actions >= {"api_key.mint", "api_key.reveal", "install_token.use", "destination.write"}
