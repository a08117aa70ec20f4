"""Identifiers: of rows, made before the row exists so that ciphertexts can be bound to them; and accounts, checked."""

from __future__ import annotations

import secrets

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LONGEST_ACCOUNT = 200


class AccountInvalid(ValueError):
    """The account identifier cannot be used; the text says why, without repeating it."""


def check_account(account: object) -> str:
    """Return the partner's identifier of an account, which has to pass here wherever it comes from.

    Raises:
        AccountInvalid: no string, empty, longer than 200 characters, with control characters or spaces around it.
    """
    if (
        not isinstance(account, str)
        or not 0 < len(account) <= _LONGEST_ACCOUNT
        or not account.isprintable()
        or account.strip() != account
    ):
        raise AccountInvalid("an account is 1 to 200 printable characters without spaces around them")
    return account


def new_id(prefix: str) -> str:
    """Return a fresh identifier such as ``ins_4f0d...``: the prefix, ``_`` and 20 characters (100 random bits)."""
    return f"{prefix}_{''.join(secrets.choice(_ALPHABET) for _ in range(20))}"


def incident_id() -> str:
    """Return eight hex digits that join what a person was shown with the log line about it."""
    return secrets.token_hex(4)
