"""Rotating encryption keys without a moment in which some process meets a ciphertext it cannot open.

A new key is first *added* as the last one, where it only decrypts; when every process has it, it is *used*, as the
first one; when nothing is encrypted with the older keys any more, they are *retired*. These are decisions about a
list of keys; nothing here reads or writes a store.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import TypeAlias

_MOST_NAMED = 10

ProcessKeys: TypeAlias = tuple[str, Sequence[str]]
"""A running process by its name for people, and the key ids it knows, the encrypting one first."""


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


def check_known(key_id: str, processes: Sequence[ProcessKeys], *, setting: str) -> None:
    """Check that every running process knows a key, so that it may encrypt.

    Args:
        processes: those that run.

    Raises:
        RotationRefused: one does not.
    """
    unaware = [name for name, key_ids in processes if key_id not in key_ids]
    if unaware:
        raise RotationRefused(
            f"running processes do not know the key '{key_id}' yet: {_listed(unaware)}. Deploy {setting} with it to "
            "them first. A process that was killed counts for one more minute"
        )


def check_encrypts(key_id: str, processes: Sequence[ProcessKeys], *, setting: str) -> None:
    """Check that every running process encrypts with a key, so that no other is needed any more.

    Raises:
        RotationRefused: one does not.
    """
    others = [name for name, key_ids in processes if key_ids[0] != key_id]
    if others:
        raise RotationRefused(
            f"running processes still encrypt with another key than '{key_id}': {_listed(others)}. Deploy {setting} "
            "with that key in front to them first. A process that was killed counts for one more minute"
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMED])
    return shown if len(names) <= _MOST_NAMED else f"{shown} and {len(names) - _MOST_NAMED} more"


def retire_old_keys(keys: Mapping[str, bytes], *, in_use: Collection[str], added: str | None) -> dict[str, bytes]:
    """Return the first key alone.

    Args:
        added: a key that waits in the last place; it is new, and would be gone with the old ones.

    Raises:
        RotationRefused: there is no other key, or one that waits, or a stored ciphertext still needs one, or the first
            is not in use.
    """
    current, *old = keys
    if not old:
        raise RotationRefused("there is only one key; nothing can be retired")
    if added is not None:
        raise RotationRefused(
            f"the key '{added}' was added and does not encrypt yet; when every process has it, go on with: "
            "enable-with-segment encryption-keys rotate --stage use. If you do not want it any more, take it out of "
            "the value yourself: nothing stored needs it"
        )
    needed = [key_id for key_id in old if key_id in in_use]
    if needed:
        raise RotationRefused(
            f"stored secrets still need {', '.join(needed)}; "
            "run: enable-with-segment encryption-keys reencrypt --verify"
        )
    if in_use and current not in in_use:
        raise RotationRefused(f"nothing stored is encrypted with '{current}'; its key would be lost with the others")
    return {current: keys[current]}
