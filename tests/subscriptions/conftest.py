"""Receiving services over fresh stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from enable_with_segment import Setting, Subscription
from enable_with_segment.db.encryption import EncryptionKeys
from tests.subscriptions.receiver import Open, Receiver, Recorder, open_receiver
from tests.subscriptions.signed_sender import Sender


@pytest.fixture
def recorder() -> Recorder:
    """The handlers of the component ``acme-crm``."""
    return Recorder(
        settings=[Setting("region", choices=["us", "eu"], default="us"), Setting("sendAnonymous", type=bool)]
    )


@pytest.fixture
def on_sqlite(tmp_path: Path, encryption: EncryptionKeys) -> Open:
    """Open a service over fresh SQLite stores, for tests that have nothing to do with the engine."""

    @asynccontextmanager
    async def open_(*subscriptions: Subscription, **options: Any) -> AsyncIterator[Receiver]:
        url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
        async with open_receiver(url, encryption, *subscriptions, **options) as receiver:
            yield receiver

    return open_


@pytest.fixture
async def receiver(on_sqlite: Open, recorder: Recorder) -> AsyncIterator[Receiver]:
    """A service on SQLite."""
    async with on_sqlite(recorder.subscription) as opened:
        yield opened


@pytest.fixture
async def sender(receiver: Receiver) -> Sender:
    """A signed Webhooks destination of that service."""
    return Sender(receiver, *await receiver.mint_signed())


@pytest.fixture
async def stored_receiver(database_url: str, encryption: EncryptionKeys, recorder: Recorder) -> AsyncIterator[Receiver]:
    """A service on both engines, for tests about what is stored."""
    async with open_receiver(database_url, encryption, recorder.subscription) as opened:
        yield opened


@pytest.fixture
def opened(database_url: str, encryption: EncryptionKeys) -> Open:
    """Open a service over fresh stores on either engine."""

    @asynccontextmanager
    async def open_(*subscriptions: Subscription, **options: Any) -> AsyncIterator[Receiver]:
        async with open_receiver(database_url, encryption, *subscriptions, **options) as receiver:
            yield receiver

    return open_
