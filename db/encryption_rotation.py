"""Rotating encryption keys without a moment in which some process meets a ciphertext it cannot open.

A new key is first *added* as the last one, where it only decrypts; when every process has it, it is *used*, as the
first one; when nothing is encrypted with the older keys any more, they are *retired*. These are decisions about a
list of keys; nothing here reads or writes a store.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum


class RotationStage(StrEnum):
    """The three values that are deployed one after the other."""

    ADD = "add"
    USE = "use"
    RETIRE = "retire"


class RotationRefused(Exception):
    """This stage would do nothing or harm now; the text says what to do instead."""


def add_key(keys: Mapping[str, bytes], key_id: str, key: bytes, *, added: str | None) -> dict[str, bytes]:
    """Return the keys with a new one at the end, where it decrypts and does not encrypt yet.

    Args:
        added: a key that waits in the last place already.

    Raises:
        RotationRefused: a key waits already, or there is a key of this id.
    """
    if added is not None:
        raise RotationRefused(
            f"the key '{added}' was added already and does not encrypt yet; when every process has it, "
            "go on with: enable-with-segment encryption-keys rotate --stage use"
        )
    if key_id in keys:
        raise RotationRefused(f"there is a key '{key_id}' already; run the command again")
    return {**keys, key_id: key}


def use_newest_key(
    keys: Mapping[str, bytes], *, in_use: Collection[str], replaced: Collection[str]
) -> dict[str, bytes]:
    """Return the keys with the last one moved to the front.

    Args:
        in_use: the key ids that stored ciphertexts carry.
        replaced: the key ids that a re-encryption has moved ciphertexts away from.

    Raises:
        RotationRefused: the last key is not a new one, so there is nothing to put to use.
    """
    if len(keys) < 2:
        raise RotationRefused("there is only one key; add one first: enable-with-segment encryption-keys rotate")
    newest = list(keys)[-1]
    if newest in replaced:
        raise RotationRefused(
            f"the last key '{newest}' is an old one that was replaced; "
            "retire it: enable-with-segment encryption-keys rotate --stage retire"
        )
    if newest in in_use:
        raise RotationRefused(
            f"the last key '{newest}' is not new: stored secrets are encrypted with it. If the first key is the new "
            "one, go on with: enable-with-segment encryption-keys reencrypt --verify"
        )
    return {newest: keys[newest], **{key_id: key for key_id, key in keys.items() if key_id != newest}}


def retire_old_keys(keys: Mapping[str, bytes], *, in_use: Collection[str]) -> dict[str, bytes]:
    """Return the first key alone.

    Raises:
        RotationRefused: there is no other key, or a stored ciphertext still needs one, or the first is not in use.
    """
    current, *old = keys
    if not old:
        raise RotationRefused("there is only one key; nothing can be retired")
    needed = [key_id for key_id in old if key_id in in_use]
    if needed:
        raise RotationRefused(
            f"stored secrets still need {', '.join(needed)}; "
            "run: enable-with-segment encryption-keys reencrypt --verify"
        )
    if in_use and current not in in_use:
        raise RotationRefused(f"nothing stored is encrypted with '{current}'; its key would be lost with the others")
    return {current: keys[current]}
