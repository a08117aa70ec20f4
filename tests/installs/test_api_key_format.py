"""The form of API keys: what a scanner can tell, and what a partner's own function may return."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.installs.api_key_format import (
    PREFIX,
    SIGNED_PREFIX,
    ApiKeyInvalid,
    check_foreign_key,
    checksum,
    new_key,
    new_secret,
)
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.key_cache import KeyState

SCANNER_RULE = re.compile(r"ew[sh]_[0-9A-Za-z]{40}")


def is_api_key(text: str) -> bool:
    """What a scanner does: the rule first, then the checksum."""
    return SCANNER_RULE.fullmatch(text) is not None and checksum(text[:-6]) == text[-6:]


@pytest.mark.parametrize("prefix", [PREFIX, SIGNED_PREFIX])
def test_a_key_says_what_it_is(prefix: str) -> None:
    key = new_key(prefix)
    assert key.startswith(prefix)
    assert is_api_key(key)
    assert ":" not in key


def test_the_checksum_is_crc_32_in_base_62() -> None:
    assert checksum("123456789") == "3jZRME"  # CRC-32 0xCBF43926, the check value of its definition
    assert checksum("") == "000000"


@given(st.integers(0, 43), st.characters(categories=["Lu", "Ll", "Nd"], max_codepoint=127))
def test_a_key_with_one_character_changed_is_dismissed(place: int, character: str) -> None:
    key = new_key()
    changed = key[:place] + character + key[place + 1 :]
    assert is_api_key(changed) is (changed == key)


@given(st.text(max_size=60))
def test_other_text_is_no_key(text: str) -> None:
    assert not is_api_key(text)


def test_a_secret_is_long_and_never_the_same() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert {len(secret) for secret in made} == {40}


@pytest.mark.parametrize(
    "key", ["acme_live_8fK2mQ9xTz41", "a-b_c.d~e+f/g=h!", "0123456789abcdef", "x" * 100 + "0123456789"]
)
def test_a_partners_own_key_may_look_like_this(key: str) -> None:
    assert check_foreign_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        *(None, 7, b"acme_live_8fK2mQ9xTz41", "", "short"),
        *("with:colon:0123456", "with space 012345", "naïve_0123456789", "line\nbreak_0123456"),
        *("a" * 40, "x9" * 129),
    ],
    ids=repr,
)
def test_a_partners_own_key_must_not_look_like_this(key: object) -> None:
    with pytest.raises(ApiKeyInvalid) as refused:
        check_foreign_key(key)
    assert not isinstance(key, str) or not key or key not in str(refused.value)


async def test_a_partners_function_makes_the_keys(sqlite_database: Database, encryption: EncryptionKeys) -> None:
    asked: list[tuple[str, str]] = []

    def make(account: str, component: str) -> str:
        asked.append((account, component))
        return "acme_live_8fK2mQ9xTz41"

    keys = ApiKeys(sqlite_database, encryption, b"l" * 32, hook=make)
    async with sqlite_database.transaction() as session:
        minted = await keys.mint(session, account="northwind", component="acme-crm")
    assert minted.api_key == "acme_live_8fK2mQ9xTz41"
    assert asked == [("northwind", "acme-crm")]
    assert (await keys.look_up(minted.api_key)).state is KeyState.USABLE
    with pytest.raises(ApiKeyInvalid, match="before"):
        async with sqlite_database.transaction() as session:
            await keys.mint(session, account="contoso", component="acme-crm")
