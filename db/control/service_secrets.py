"""Secrets the service makes once for itself. Opening one at start proves that ``ENCRYPTION_KEYS`` is right."""

from __future__ import annotations

import base64
import secrets
from datetime import datetime

from sqlalchemy.exc import IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import ServiceSecret
from enable_with_segment.db.encryption import EncryptionKeys, Place


async def ensure(session: AsyncSession, keys: EncryptionKeys, name: str, *, now: datetime) -> bytes:
    """Return the 32 bytes of the named secret, made at its first use.

    Raises:
        EncryptionError: it exists and the given keys do not open it.
    """
    place = Place("service_secrets", "value_ciphertext", name)
    found = await session.get(ServiceSecret, name)
    if found is None:
        value = base64.b64encode(secrets.token_bytes(32)).decode()
        made = ServiceSecret(name=name, value_ciphertext=keys.encrypt(value, place), created_at=now)
        try:
            async with session.begin_nested():
                session.add(made)
            found = made
        except IntegrityError:  # another process that starts for the first time was quicker
            found = await session.get_one(ServiceSecret, name)
    return base64.b64decode(keys.decrypt(found.value_ciphertext, place))
