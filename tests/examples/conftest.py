"""The example partner behind a real receiving service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enable_with_segment.db.encryption import EncryptionKeys
from examples.acme_crm.handlers import crm
from tests.subscriptions.receiver import Receiver, open_receiver


@pytest.fixture
async def acme(
    database_url: str, encryption: EncryptionKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Receiver]:
    """A service whose component is Acme CRM, with a contact book of its own; on both engines."""
    monkeypatch.setenv("ACME_CRM_DATABASE", str(tmp_path / "acme_crm.db"))
    async with open_receiver(database_url, encryption, crm) as receiver:
        yield receiver
