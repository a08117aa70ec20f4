"""One process of a refresh race: for each lease length on its input, many tasks want a token; answers with JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import timedelta

from db.database import Database
from db.encryption import EncryptionKeys
from oauth_app.install_tokens import InstallTokens
from segment_api.errors import SegmentError
from segment_api.identity import IdentityClient
from segment_api.rate_limiter import RateLimiter
from segment_api.secret import Secret
from subscriptions.provisioning.access import AccessLost
from tests.segment_api.wire import CLIENT_ID, CLIENT_SECRET, REDIRECT_URI, SCOPE

TASKS = 20


async def main() -> None:
    """Serve rounds until the input ends."""
    install_id, segment = os.environ["RACE_INSTALL"], os.environ["RACE_SEGMENT"]
    database = Database.open(os.environ["RACE_DATABASE"])
    identity = IdentityClient(
        identity_url=segment,
        config_api_url=f"{segment}/v1beta",
        client_id=CLIENT_ID,
        client_secret=Secret(CLIENT_SECRET),
        redirect_uri=REDIRECT_URI,
        scope=SCOPE,
        limiter=RateLimiter(100_000),
    )
    keys = EncryptionKeys.parse(os.environ["RACE_KEYS"])

    async def one(tokens: InstallTokens) -> str:
        try:
            return await tokens.access_token(install_id)
        except (SegmentError, AccessLost) as error:
            return f"{type(error).__name__}: {error}"

    _answer([])
    try:
        while seconds := await asyncio.to_thread(sys.stdin.readline):
            tokens = InstallTokens(database, keys, identity, lease=timedelta(seconds=float(seconds)))
            _answer(await asyncio.gather(*(one(tokens) for _ in range(TASKS))))
    finally:
        await identity.aclose()
        await database.close()


def _answer(obtained: list[str]) -> None:
    sys.stdout.write(json.dumps(obtained) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
