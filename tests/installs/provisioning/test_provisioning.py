"""Provisioning against the sandbox: the destination is made, patched and read back (contract cases 43 to 61)."""

from __future__ import annotations

import json
import logging

import pytest

from enable_with_segment.db.control import installs
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.segment_api.names import workspace_name
from enable_with_segment.segment_sandbox import Sandbox, SandboxConfig
from tests.installs.provisioning.stage import CONNECTED, DESTINATIONS, EXISTS, ONE, Stage
from tests.segment_api.wire import DESTINATION


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
    stage.sandbox.state.faults.clear()
    await stage.work_for(seconds=30)
    assert await stage.outcome(install_id) == CONNECTED, "what the button would mend mends itself"


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


@pytest.mark.parametrize("mode", ["unspecified", "echo"])
async def test_case_052_the_connection_mode_in_the_answer_does_not_matter(stage: Stage, mode: str) -> None:
    stage.sandbox.state.set_switches({"connection_mode_answer": mode})
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED


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
    assert len(stage.wire.sent) == 9
    assert f"GET {DESTINATIONS}" not in stage.wire.routes()


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
