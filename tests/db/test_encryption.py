"""Encryption at rest: what opens, what must not, and what errors may say (security TK-2 to TK-4)."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.db.encryption import (
    EncryptionError,
    EncryptionKeys,
    EncryptionKeysInvalid,
    Place,
    format_key_entries,
    generate_encryption_key,
    parse_key_entries,
)

PLACE = Place("install_tokens", "access_token_ciphertext", "ins_1")
KEYS = EncryptionKeys({"k1": b"1" * 32})


@given(st.text(), st.builds(Place, st.text(), st.text(), st.text()))
def test_what_is_encrypted_opens_in_its_place(plaintext: str, place: Place) -> None:
    assert KEYS.decrypt(KEYS.encrypt(plaintext, place), place) == plaintext


@pytest.mark.parametrize(
    "elsewhere",
    [
        Place("api_keys", PLACE.column, PLACE.row),
        Place(PLACE.table, "other", PLACE.row),
        Place(PLACE.table, PLACE.column, "ins_2"),
        Place(PLACE.table + PLACE.column, "", PLACE.row),
    ],
)
def test_tk_02_moved_ciphertext_does_not_open(elsewhere: Place) -> None:
    ciphertext = KEYS.encrypt("secret", PLACE)
    with pytest.raises(EncryptionError):
        KEYS.decrypt(ciphertext, elsewhere)


@given(st.integers(min_value=0), st.integers(0, 7))
def test_tk_03_flipped_bit_does_not_open_and_tells_nothing(position: int, bit: int) -> None:
    version, key_id, encoded = KEYS.encrypt("the-secret", PLACE).split(".")
    raw = bytearray(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    raw[position % len(raw)] ^= 1 << bit
    changed = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    with pytest.raises(EncryptionError) as caught:
        KEYS.decrypt(f"{version}.{key_id}.{changed}", PLACE)
    assert "the-secret" not in str(caught.value)
    assert changed not in str(caught.value)


@given(st.text())
def test_text_that_is_no_ciphertext_is_a_typed_error(text: str) -> None:
    with pytest.raises(EncryptionError):
        KEYS.decrypt(text, PLACE)


@given(st.text())
def test_text_after_a_good_beginning_is_a_typed_error(text: str) -> None:
    with pytest.raises(EncryptionError):
        KEYS.decrypt(f"v1.k1.{text}", PLACE)


def test_equal_plaintexts_look_different() -> None:
    assert len({KEYS.encrypt("same", PLACE) for _ in range(50)}) == 50


def test_the_first_key_encrypts_and_all_of_them_decrypt() -> None:
    old, new = b"o" * 32, b"n" * 32
    before = EncryptionKeys({"old": old}).encrypt("secret", PLACE)
    both = EncryptionKeys({"new": new, "old": old})
    assert both.decrypt(before, PLACE) == "secret"
    assert both.encrypt("secret", PLACE).startswith("v1.new.")
    assert (both.current_key_id, both.key_ids) == ("new", ("new", "old"))
    with pytest.raises(EncryptionError, match="another key"):
        EncryptionKeys({"new": new}).decrypt(before, PLACE)


def test_a_generated_key_is_accepted_and_differs_each_time() -> None:
    first, second = generate_encryption_key(), generate_encryption_key()
    assert first != second
    assert len(EncryptionKeys.parse(f"{first},{second}").key_ids) == 2


GOOD = base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ",",
        GOOD,
        f"k1:{GOOD},",
        f"k1:{GOOD},k1:{GOOD}",
        "k1:" + base64.b64encode(b"short").decode(),
        "k1:not base64!",
        f":{GOOD}",
        f"K 1:{GOOD}",
        f"{'k' * 40}:{GOOD}",
    ],
)
def test_tk_04_unusable_keys_are_refused_by_name_without_their_value(text: str) -> None:
    with pytest.raises(EncryptionKeysInvalid, match="ENCRYPTION_KEYS") as caught:
        EncryptionKeys.parse(text)
    assert GOOD not in str(caught.value)
    assert "encryption-keys generate" in str(caught.value)


def test_the_current_key_alone_opens_only_its_own() -> None:
    old, new = b"o" * 32, b"n" * 32
    keys = EncryptionKeys({"new": new, "old": old})
    alone = keys.only_current()
    assert alone.key_ids == ("new",)
    assert alone.decrypt(keys.encrypt("secret", PLACE), PLACE) == "secret"
    with pytest.raises(EncryptionError, match="another key"):
        alone.decrypt(EncryptionKeys({"old": old}).encrypt("secret", PLACE), PLACE)


def test_key_entries_are_written_as_they_are_read() -> None:
    text = f"{generate_encryption_key()},{generate_encryption_key()}"
    assert format_key_entries(parse_key_entries(text)) == text


def test_no_keys_at_all_are_refused() -> None:
    with pytest.raises(EncryptionKeysInvalid, match="empty"):
        EncryptionKeys({})


def test_keys_show_only_their_ids() -> None:
    assert repr(EncryptionKeys.parse(f"k1:{GOOD}")) == "EncryptionKeys(k1)"
