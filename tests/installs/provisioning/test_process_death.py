"""The process dies between any two steps of provisioning; the next one ends connected all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import install_tokens, service_secrets
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.http_client import httpx
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.key_cache import KeyState
from enable_with_segment.segment_sandbox import Sandbox, SandboxConfig
from tests.installs.provisioning.stage import Stage
from tests.segment_api.wire import Sent


class ProcessDied(BaseException):
    """What a killed process would look like from inside, if it could look."""


class Death:
    """Strikes at the n-th step: a commit, a request about to go out, an answer that just came in."""

    def __init__(self) -> None:
        self.steps_left: int | None = None

    def step(self) -> None:
        if self.steps_left is None:
            return
        if self.steps_left == 0:
            raise ProcessDied
        self.steps_left -= 1

    def before(self, _: httpx.Request) -> httpx.Response | None:
        self.step()
        return None

    def after(self, _: Sent) -> None:
        self.step()


class MortalDatabase(Database):
    """The same store, seen by a process that may die before a transaction, in it, or right after its commit."""

    def __init__(self, living: Database, death: Death) -> None:
        super().__init__(living.engine, living.reads)
        self._death = death

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        self._death.step()
        async with super().transaction() as session:
            yield session
            self._death.step()
        self._death.step()


async def staged(
    living: Database, encryption: EncryptionKeys, death: Death | None = None, sandbox: Sandbox | None = None
) -> Stage:
    """A process of its own over the same store and the same Segment."""
    async with living.transaction() as session:
        secret = await service_secrets.ensure(session, encryption, "api_key_lookup", now=utc_now())
    database = living if death is None else MortalDatabase(living, death)
    stage = Stage(database, encryption, ApiKeys(database, encryption, secret), sandbox=sandbox)
    if death is not None:
        stage.wire.before, stage.wire.after = death.before, death.after
    return stage


async def dies_at_work(first: Stage, death: Death, steps: int) -> bool:
    """Let a process do its work until it dies after some steps; returns whether it came to that."""
    death.steps_left = steps
    died = False
    try:
        await first.worker.run_due()
    except BaseExceptionGroup as group:
        died = group.subgroup(ProcessDied) is not None
    except ProcessDied:
        died = True
    death.steps_left = None
    await first.close()
    return died


async def work_later(second: Stage, first: Stage) -> None:
    """Let another process do what is left, when the leases of the first one have run out."""
    second.clock.now = first.clock.now
    second.clock.advance(minutes=10)
    await second.worker.run_due()


@pytest.mark.parametrize(("masked", "existing"), [(False, False), (True, True)], ids=["new", "existing and masked"])
async def test_dying_at_any_step_of_provisioning_loses_nothing(
    database: Database, encryption: EncryptionKeys, masked: bool, existing: bool
) -> None:
    deaths = 0
    for steps in range(200):
        sandbox = Sandbox(SandboxConfig(switches={"mask_sensitive_settings": masked}))
        death = Death()
        first = await staged(database, encryption, death, sandbox)
        if existing:
            first.put_destination(api_key="somebody", enabled=False)
        install_id = await first.install(settings={"region": "eu"})
        died = await dies_at_work(first, death, steps)

        second = await staged(database, encryption, sandbox=sandbox)
        await work_later(second, first)
        assert await second.outcome(install_id) == ("connected", None), f"after dying at step {steps}"
        assert await second.open_entries(install_id) == []
        assert len(sandbox.state.world.destinations) == 1
        assert second.destination().enabled
        assert second.destination().config["apiKey"] == await second.clear_key(install_id)
        await second.close()
        if not died:
            break
        deaths += 1
    else:
        pytest.fail("the run never got to its end")
    assert deaths > 20


async def test_dying_at_any_step_of_a_rotation_leaves_segment_with_a_key_that_works(
    database: Database, encryption: EncryptionKeys
) -> None:
    for steps in range(200):
        sandbox, death = Sandbox(), Death()
        first = await staged(database, encryption, death, sandbox)
        install_id = await first.install()
        await first.worker.run_due()
        await first.provisioner.rotate_key(install_id, actor="operator")
        died = await dies_at_work(first, death, steps)

        second = await staged(database, encryption, sandbox=sandbox)
        held = str(second.destination().config["apiKey"])
        assert (await second.api_keys.look_up(held)).state == "usable"
        await work_later(second, first)
        assert second.destination().config["apiKey"] == await second.clear_key(install_id)
        await second.close()
        if not died:
            return
    pytest.fail("the run never got to its end")


async def test_tk_11_dying_at_any_step_of_a_disconnect_ends_in_the_same_place(
    sqlite_database: Database, encryption: EncryptionKeys
) -> None:
    database = sqlite_database
    deaths = 0
    for steps in range(200):
        sandbox, death = Sandbox(), Death()
        first = await staged(database, encryption, death, sandbox)
        install_id = await first.install()
        await first.worker.run_due()
        key = await first.clear_key(install_id)
        await first.provisioner.disconnect(install_id, actor="operator")
        died = await dies_at_work(first, death, steps)

        second = await staged(database, encryption, sandbox=sandbox)
        await work_later(second, first)
        outcome = await second.outcome(install_id)
        assert outcome == ("disconnected", "disconnected_by_request"), f"after dying at step {steps}"
        assert await second.open_entries(install_id) == []
        assert not second.destination().enabled
        assert (await second.api_keys.look_up(key)).state is KeyState.REVOKED
        async with database.transaction() as session:
            token = await install_tokens.get(session, install_id)
        assert token is not None
        assert token.access_token_ciphertext is None
        await second.close()
        if not died:
            break
        deaths += 1
    else:
        pytest.fail("the run never got to its end")
    assert deaths > 5
