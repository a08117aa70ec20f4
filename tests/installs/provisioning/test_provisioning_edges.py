"""What rarely happens while provisioning: things gone, things changed meanwhile, things nobody gave."""

from __future__ import annotations

import pytest

from enable_with_segment.db.control import installs
from enable_with_segment.db.control.tables import Install
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.record import queue_provisioning
from enable_with_segment.segment_sandbox import Sandbox, SandboxConfig
from enable_with_segment.segment_sandbox.config import CatalogDestination, SettingSpec
from tests.installs.provisioning.stage import HOURS, Stage
from tests.segment_api.wire import DESTINATION


async def change(stage: Stage, install_id: str, **values: object) -> None:
    async with stage.database.transaction() as session:
        install = await installs.get(session, install_id)
        assert isinstance(install, Install)
        for name, value in values.items():
            setattr(install, name, value)
        session.add(install)


async def test_a_component_that_is_no_longer_offered_says_so(stage: Stage) -> None:
    install_id = await stage.install()
    await change(stage, install_id, component="retired")
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("failed", "component_unknown")
    assert stage.wire.sent == []


async def test_required_settings_that_nobody_gave_are_named(
    database: Database, encryption: EncryptionKeys, api_keys: ApiKeys
) -> None:
    settings = (SettingSpec("apiKey", "API Key", required=True), SettingSpec("list", "List", required=True))
    entry = CatalogDestination("acme-crm", "Acme CRM", "http://127.0.0.1:1/", settings)
    sandbox = Sandbox(SandboxConfig(catalog=(entry,)))
    stage = Stage(database, encryption, api_keys, sandbox=sandbox)
    install_id = await stage.install(settings={"region": "eu"})
    await stage.work_for(seconds=30)
    assert await stage.outcome(install_id) == ("failed", "settings_missing")
    assert "list" in ((await stage.row(install_id)).status_detail or "")
    assert not stage.wire.of("POST")
    await stage.close()


@pytest.mark.parametrize("act", ["provision", "disconnect", "rotate_key"])
async def test_an_unknown_install_is_a_key_error(stage: Stage, act: str) -> None:
    arguments = {} if act == "provision" else {"actor": "operator"}
    with pytest.raises(KeyError):
        await getattr(stage.provisioner, act)("ins_nobody", **arguments)


async def test_a_key_rotated_during_a_run_is_what_segment_holds_in_the_end(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    stage.destination().enabled = False
    pressed = False

    async def rotate(route: str) -> None:
        nonlocal pressed
        if not pressed and route.startswith("PATCH"):
            pressed = True
            await stage.provisioner.rotate_key(install_id, actor="operator")

    stage.wire.meanwhile = rotate
    async with stage.database.transaction() as session:
        await queue_provisioning(session, install_id, now=stage.clock())
    await stage.worker.run_due()
    assert pressed
    assert stage.destination().config["apiKey"] == await stage.clear_key(install_id)
    assert await stage.outcome(install_id) == ("connected", None)


async def test_disconnecting_an_install_that_segment_forgot_ends_all_the_same(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    stage.sandbox.state.world.uninstall((await stage.row(install_id)).install_name)
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.work_for(minutes=15)
    assert await stage.open_entries(install_id) == []
    assert await stage.outcome(install_id) == ("disconnected", "destination_left_on")


async def test_deleting_a_destination_that_is_gone_ends_all_the_same(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    stage.sandbox.state.world.destinations.clear()
    await stage.provisioner.disconnect(install_id, delete=True, actor="operator")
    await stage.worker.run_due()
    assert await stage.open_entries(install_id) == []


async def test_an_install_that_was_connected_again_is_not_switched_off(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    await stage.provisioner.disconnect(install_id, actor="operator")
    await change(stage, install_id, status="provisioning")
    await stage.provisioner.provision(install_id)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("connected", None)
    assert stage.destination().enabled


async def test_a_lost_answer_to_the_create_is_noticed_by_looking(stage: Stage) -> None:
    install_id = await stage.install()
    stage.fault("POST .*", status=502, body="bad gateway", after=True)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("provisioning", "segment_unavailable")
    stage.clock.advance(minutes=1)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("connected", None)
    assert len(stage.wire.of("POST")) == 1
    assert list(stage.sandbox.state.world.destinations) == [DESTINATION]


async def test_a_function_that_makes_no_key_is_named_and_waited_for(
    database: Database, encryption: EncryptionKeys
) -> None:
    works: list[str] = []

    def make(_account: str, _component: str) -> str:
        return works[0]

    own = ApiKeys(database, encryption, b"l" * 32, hook=make)
    stage = Stage(database, encryption, own)
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("provisioning", "api_key_hook_failed")
    (waiting,) = await stage.open_entries(install_id)
    assert waiting.last_error == "PartnerFunctionFailed: API_KEY_HOOK raised IndexError"
    assert stage.wire.sent == []

    works.append("acme_live_8fK2mQ9xTz41")
    stage.clock.advance(seconds=2)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("connected", None)
    await stage.close()


async def test_a_function_that_never_makes_a_key_ends_with_that_reason(
    database: Database, encryption: EncryptionKeys
) -> None:
    def make(_account: str, _component: str) -> str:
        raise SystemExit(1)

    stage = Stage(database, encryption, ApiKeys(database, encryption, b"l" * 32, hook=make))
    install_id = await stage.install()
    await stage.work_for(hours=73, at_most_every=HOURS)
    assert await stage.outcome(install_id) == ("failed", "api_key_hook_failed")
    await stage.close()
