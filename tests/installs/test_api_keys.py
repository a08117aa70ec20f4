"""API keys: minted, recognised, rotated, revoked; never stored in clear."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import accounts, audit, service_secrets
from enable_with_segment.db.control import api_keys as stored_keys
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.installs.api_keys import ApiKeys, MintedKey
from enable_with_segment.installs.key_cache import KeyHolder, KeyState
from tests.installs.provisioning.stage import TestClock


async def mint(database: Database, api_keys: ApiKeys, account: str = "northwind") -> MintedKey:
    async with database.transaction() as session:
        return await api_keys.mint(session, account=account, component="acme-crm", install_id="ins_1")


async def test_a_minted_key_is_recognised_until_it_is_revoked(database: Database, api_keys: ApiKeys) -> None:
    minted = await mint(database, api_keys)
    found = await api_keys.look_up(minted.api_key)
    assert found.state is KeyState.USABLE
    assert found.holder == KeyHolder(minted.id, "northwind", "acme-crm", "ins_1")
    async with database.transaction() as session:
        assert await api_keys.revoke(session, minted.id, actor="test")
        assert not await api_keys.revoke(session, minted.id, actor="test")
    assert (await api_keys.look_up(minted.api_key)).state is KeyState.REVOKED
    assert (await api_keys.look_up("ews_guess")).state is KeyState.UNKNOWN


async def test_a_key_has_a_form_that_a_basic_header_carries(database: Database, api_keys: ApiKeys) -> None:
    minted = await mint(database, api_keys)
    assert re.fullmatch(r"ews_[A-Za-z0-9]{40}", minted.api_key)
    assert minted.api_key not in repr(minted)


async def test_keys_differ(database: Database, api_keys: ApiKeys) -> None:
    assert len({(await mint(database, api_keys)).api_key for _ in range(20)}) == 20


async def test_the_store_holds_neither_the_key_nor_a_plain_hash_of_it(database: Database, api_keys: ApiKeys) -> None:
    minted = await mint(database, api_keys)
    async with database.transaction() as session:
        (row,) = await stored_keys.list_all(session)
        assert minted.api_key not in repr(row)
        assert row.last_four == minted.api_key[-4:]
        assert await api_keys.reveal(session, minted.id, purpose="test") == minted.api_key


async def test_another_lookup_secret_recognises_nothing(
    database: Database, encryption: EncryptionKeys, api_keys: ApiKeys
) -> None:
    minted = await mint(database, api_keys)
    other = ApiKeys(database, encryption, b"0" * 32)
    assert (await other.look_up(minted.api_key)).state is KeyState.UNKNOWN


async def test_an_expiring_key_works_until_its_end(database: Database, encryption: EncryptionKeys) -> None:
    clock = TestClock()
    async with database.transaction() as session:
        secret = await service_secrets.ensure(session, encryption, "api_key_lookup", now=utc_now())
    api_keys = ApiKeys(database, encryption, secret, clock, monotonic=lambda: clock().timestamp())
    minted = await mint(database, api_keys)
    async with database.transaction() as session:
        await api_keys.expire(session, minted.id, at=clock() + timedelta(hours=24), actor="test")
        # A second, later end does not lengthen the first.
        await api_keys.expire(session, minted.id, at=clock() + timedelta(hours=48), actor="test")
    clock.advance(hours=23, minutes=59)
    assert (await api_keys.look_up(minted.api_key)).state is KeyState.USABLE
    clock.advance(minutes=1)
    assert (await api_keys.look_up(minted.api_key)).state is KeyState.REVOKED


async def test_another_process_notices_a_revocation_within_a_second(
    database: Database, encryption: EncryptionKeys
) -> None:
    clock = TestClock()
    async with database.transaction() as session:
        secret = await service_secrets.ensure(session, encryption, "api_key_lookup", now=utc_now())
    here, elsewhere = (
        ApiKeys(database, encryption, secret, clock, monotonic=lambda: clock().timestamp()) for _ in range(2)
    )
    minted = await mint(database, here)
    assert (await elsewhere.look_up(minted.api_key)).state is KeyState.USABLE
    async with database.transaction() as session:
        await here.revoke_of_install(session, "ins_1", actor="test")
    assert (await here.look_up(minted.api_key)).state is KeyState.REVOKED
    clock.advance(seconds=1)
    assert (await elsewhere.look_up(minted.api_key)).state is KeyState.REVOKED


async def test_a_suspended_account_is_told_apart_from_a_revoked_key(database: Database, api_keys: ApiKeys) -> None:
    minted = await mint(database, api_keys)
    async with database.transaction() as session:
        await accounts.set_suspended(session, "northwind", utc_now())
    assert (await api_keys.look_up(minted.api_key)).state is KeyState.SUSPENDED
    async with database.transaction() as session:
        await api_keys.revoke(session, minted.id, actor="test")
    assert (await api_keys.look_up(minted.api_key)).state is KeyState.REVOKED


async def test_every_act_on_a_key_is_audited(database: Database, api_keys: ApiKeys) -> None:
    minted = await mint(database, api_keys)
    async with database.transaction() as session:
        await api_keys.reveal(session, minted.id, purpose="test")
        await api_keys.expire(session, minted.id, at=utc_now(), actor="test")
        await api_keys.revoke(session, minted.id, actor="test")
        entries = await audit.list_newest(session)
    assert {entry.action for entry in entries} == {
        "api_key.mint",
        "api_key.reveal",
        "api_key.expire",
        "api_key.revoke",
    }
    assert minted.api_key not in repr(entries)


async def test_revealing_an_unknown_key_is_a_key_error(database: Database, api_keys: ApiKeys) -> None:
    with pytest.raises(KeyError):
        async with database.transaction() as session:
            await api_keys.reveal(session, "key_nobody", purpose="test")


@pytest.mark.parametrize("presented", ["", "\x00", "\ud800", "ключ", "x" * 100_000])
async def test_any_text_can_be_presented(database: Database, api_keys: ApiKeys, presented: str) -> None:
    assert (await api_keys.look_up(presented)).state is KeyState.UNKNOWN
