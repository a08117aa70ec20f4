from db.database import Database
from subscriptions.api_keys import ApiKeys, KeyState


async def test_a_minted_key_is_recognised_until_it_is_revoked(database: Database, api_keys: ApiKeys) -> None:
    async with database.transaction() as session:
        minted = await api_keys.mint(session, account="acme", component="acme-crm")
    assert (await api_keys.look_up(minted.api_key)).state is KeyState.USABLE
    async with database.transaction() as session:
        assert await api_keys.revoke(session, minted.id, actor="test")
    assert (await api_keys.look_up(minted.api_key)).state is KeyState.REVOKED
    assert (await api_keys.look_up("ews_guess")).state is KeyState.UNKNOWN
