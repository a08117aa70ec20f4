"""One process of a refresh race: for each lease length that it is sent, many tasks want a token."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection

from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.installs.tokens import AccessLost, InstallTokens
from enable_with_segment.segment_api.errors import SegmentError
from enable_with_segment.segment_api.identity import IdentityClient
from enable_with_segment.segment_api.rate_limiter import RateLimiter
from enable_with_segment.segment_api.secret import Secret
from tests.segment_api.wire import CLIENT_ID, CLIENT_SECRET, REDIRECT_URI, SCOPE

TASKS = 20


@dataclass(frozen=True, slots=True)
class Racer:
    """What a process is to work with: URLs of the store and of Segment, encryption keys, and an install."""

    database: str
    segment: str
    encryption_keys: str
    install_id: str


def refresh(racer: Racer, rounds: Connection) -> None:
    """Answer each round, the seconds of a lease, with what the tasks obtained, until ``None`` comes.

    Begins with an empty answer, when it is ready.
    """
    asyncio.run(_refresh(racer, rounds))


async def _refresh(racer: Racer, rounds: Connection) -> None:
    database = Database.open(racer.database)
    identity = IdentityClient(
        identity_url=racer.segment,
        config_api_url=f"{racer.segment}/v1beta",
        client_id=CLIENT_ID,
        client_secret=Secret(CLIENT_SECRET),
        redirect_uri=REDIRECT_URI,
        scope=SCOPE,
        limiter=RateLimiter(100_000),
    )
    keys = EncryptionKeys.parse(racer.encryption_keys)

    async def one(tokens: InstallTokens) -> str:
        try:
            return await tokens.access_token(racer.install_id)
        except (SegmentError, AccessLost) as error:
            return f"{type(error).__name__}: {error}"

    rounds.send([])
    try:
        while (seconds := await asyncio.to_thread(rounds.recv)) is not None:
            tokens = InstallTokens(database, keys, identity, lease=timedelta(seconds=seconds))
            rounds.send(await asyncio.gather(*(one(tokens) for _ in range(TASKS))))
    finally:
        await identity.aclose()
        await database.close()
