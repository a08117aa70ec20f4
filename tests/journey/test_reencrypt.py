"""Replacing the encryption key under load, with the re-encryption killed again and again (security TK-5, TK-6).

``REENCRYPT_ROWS=100000`` makes the store as large as a big partner's; the suite uses a small one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy import insert, select
from sqlmodel import col

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import api_keys, install_tokens
from enable_with_segment.db.control.ciphertexts import count_all, count_not_of_key
from enable_with_segment.db.control.tables import Account, ApiKey, Install, InstallStatus, InstallToken
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys, generate_encryption_key
from enable_with_segment.oauth_app.runtime.factories import api_keys_of
from enable_with_segment.oauth_app.runtime.stores import open_stores
from tests.journey.deployment import Deployment, basic, until
from tests.journey.processes import Running

ROWS = int(os.environ.get("REENCRYPT_ROWS", "900"))
KILLS = 3


async def test_tk_05_tk_06_reencryption_is_killed_three_times_under_load_and_ends_complete(
    deployment: Deployment, database_url: str
) -> None:
    old, new = (deployment.environment["ENCRYPTION_KEYS"], generate_encryption_key())
    old_id, new_id = (key.partition(":")[0] for key in (old, new))
    deployment.environment["DATABASE_URL"] = database_url
    key = await fill(deployment)
    deployment.environment["ENCRYPTION_KEYS"] = f"{new},{old}"
    service = deployment.serve()
    database = Database.open(database_url)
    try:
        total = await count_all(database)
        assert await count_not_of_key(database, new_id) == total
        async with traffic(deployment, key) as answers:
            began = time.monotonic()
            for _ in range(KILLS):
                await kill_on_the_way(deployment, database, new_id)
            done = await deployment.command("encryption-keys", "reencrypt", "--verify", "--json")
            seconds = time.monotonic() - began
        assert done.status == 0, done.errors
        told = json.loads(done.output)
        assert (told["complete"], told["remaining"], told["unreadable_rows"]) == (True, 0, 0)
        assert told["verified"] >= total
        assert await count_not_of_key(database, new_id) == 0
    finally:
        await database.close()

    assert set(answers) == {"event 202", "connected"}, answers
    assert min(answers.values()) > 1
    print(f"{total:,} secrets in {seconds:.1f} s with {KILLS} kills; meanwhile {dict(answers)}")  # noqa: T201 - the figures
    status = json.loads((await deployment.command("encryption-keys", "status", "--json")).output)
    assert (status["current"], status["missing"], status["unused"]) == (new_id, [], [old_id])

    assert service.terminate() == 0
    retired = await deployment.command("encryption-keys", "rotate", "--stage", "retire")
    assert retired.output.strip() == new
    deployment.environment["ENCRYPTION_KEYS"] = new
    await everything_is_as_it_was(deployment)
    service = deployment.serve()
    assert await send(deployment, key, "after the old key is gone") == 202
    assert service.terminate() == 0


async def fill(deployment: Deployment) -> str:
    """Store many installs with their tokens and many API keys, and return one key that works."""
    now = utc_now()
    settings = deployment.settings()
    async with open_stores(settings) as stores:
        keys = stores.encryption
        async with stores.control.transaction() as session:
            minted = await api_keys_of(settings, stores).mint(session, account="acme", component="acme-crm")
        installs = [f"ins_{number:06}" for number in range(ROWS // 2)]
        stored_keys = [f"key_{number:06}" for number in range(ROWS // 2)]
        async with stores.control.engine.begin() as connection:
            await connection.execute(insert(Account), [{"id": "many", "created_at": now}])
            await connection.execute(
                insert(Install),
                [
                    {
                        "id": row,
                        "account": "many",
                        "component": "acme-crm",
                        "install_name": f"installs/many-{row}",
                        "workspace_name": "workspaces/many",
                        "scope": "destination/acme-crm",
                        "status": InstallStatus.CONNECTED,
                        "settings": {},
                        "created_at": now,
                        "updated_at": now,
                    }
                    for row in installs
                ],
            )
            await connection.execute(
                insert(InstallToken),
                [
                    {
                        "install_id": row,
                        "access_token_ciphertext": keys.encrypt(f"token of {row}", install_tokens.place(row)),
                        "expires_at": now + timedelta(hours=1),
                        "refreshed_at": now,
                        "generation": 1,
                    }
                    for row in installs
                ],
            )
            await connection.execute(
                insert(ApiKey),
                [
                    {
                        "id": row,
                        "key_hash": hashlib.sha256(row.encode()).hexdigest(),
                        "key_ciphertext": keys.encrypt(f"key of {row}", api_keys.place(row)),
                        "last_four": "0000",
                        "account": "many",
                        "component": "acme-crm",
                        "created_at": now,
                    }
                    for row in stored_keys
                ],
            )
    return minted.api_key


async def everything_is_as_it_was(deployment: Deployment) -> None:
    """Open every secret that was stored at first with the keys configured now."""
    keys = EncryptionKeys.parse(deployment.environment["ENCRYPTION_KEYS"])
    async with open_stores(deployment.settings()) as stores, stores.control.engine.connect() as connection:
        tokens = await connection.execute(
            select(col(InstallToken.install_id), col(InstallToken.access_token_ciphertext))
            .join(Install, col(Install.id) == col(InstallToken.install_id))
            .where(col(Install.account) == "many")
        )
        stored_keys = await connection.execute(
            select(col(ApiKey.id), col(ApiKey.key_ciphertext)).where(col(ApiKey.account) == "many")
        )
        for row, ciphertext in tokens.all():
            assert keys.decrypt(ciphertext or "", install_tokens.place(row)) == f"token of {row}"
        for row, ciphertext in stored_keys.all():
            assert keys.decrypt(ciphertext or "", api_keys.place(row)) == f"key of {row}"


async def kill_on_the_way(deployment: Deployment, database: Database, key_id: str) -> None:
    """Run the re-encryption, and kill it when it is seen to have done some of its work.

    However fast the machine is, it is not done by then: at this rate the rows that are left take half a minute.
    """
    enough = await count_not_of_key(database, key_id) - ROWS // 30
    pace = ["--batch", str(max(ROWS // 300, 1)), "--rate", str(ROWS / 30)]
    running = Running(
        ["encryption-keys", "reencrypt", *pace],
        deployment.environment,
        deployment.folder / "reencrypt.log",
        deployment.folder,
    )
    deployment.started.append(running)

    async def gets_on() -> bool | None:
        return True if await count_not_of_key(database, key_id) < enough else None

    await until(gets_on, f"fewer than {enough} rows are left")
    running.kill()
    assert await count_not_of_key(database, key_id) > 0, "it was done before it could be killed"


@asynccontextmanager
async def traffic(deployment: Deployment, key: str) -> AsyncIterator[Counter[str]]:
    """Send events and connect a workspace over and over while the block lasts; counts how each request ended."""
    answers: Counter[str] = Counter()
    stopping = asyncio.Event()

    async def send_events(sender: int) -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            answers[f"event {await send(deployment, key, f'{sender}-{number}')}"] += 1
            await asyncio.sleep(0.01)

    async def connect() -> None:
        while not stopping.is_set():
            await deployment.connect(await deployment.link("acct_northwind"))
            answers["connected"] += 1

    tasks = [asyncio.create_task(work) for work in (send_events(1), send_events(2), connect())]
    try:
        yield answers
    finally:
        stopping.set()
        await asyncio.gather(*tasks)


async def send(deployment: Deployment, key: str, message_id: str) -> int:
    """Deliver an event as Segment does."""
    body = {"type": "identify", "userId": "u", "messageId": message_id, "traits": {"email": "kim@mail.example"}}
    answer = await deployment.http.post(
        f"{deployment.url}/subscriptions/acme-crm", json=body, headers={"Authorization": basic(key)}
    )
    return answer.status_code
