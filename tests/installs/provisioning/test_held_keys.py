"""A destination that holds a key already: whose it is, and who is asked (contract cases 50, 51 and 62)."""

from __future__ import annotations

from enable_with_segment.db.control import installs
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.segment_sandbox.config_api.destinations import MASKED
from tests.installs.provisioning.stage import CONNECTED, ONE, Stage
from tests.segment_api.wire import DESTINATION


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
