"""The three steps of a rotation, and those that would do harm now."""

from __future__ import annotations

import pytest

from enable_with_segment.db.encryption_rotation import RotationRefused, add_key, retire_old_keys, use_newest_key

OLD, NEW = b"o" * 32, b"n" * 32
ADDED = {"old": OLD, "new": NEW}
USED = {"new": NEW, "old": OLD}


def test_a_new_key_is_added_last_so_that_it_only_decrypts() -> None:
    assert list(add_key({"old": OLD}, "new", NEW, added=None).items()) == list(ADDED.items())


def test_the_newest_key_moves_to_the_front_when_it_is_used() -> None:
    assert list(use_newest_key(ADDED, in_use={"old"}, replaced=set()).items()) == list(USED.items())


def test_every_other_key_is_kept_in_its_order() -> None:
    keys = {"b": OLD, "a": OLD, "new": NEW}
    assert list(use_newest_key(keys, in_use={"a", "b"}, replaced=set())) == ["new", "b", "a"]


def test_old_keys_are_retired_when_nothing_needs_them() -> None:
    assert retire_old_keys(USED, in_use={"new"}, added=None) == {"new": NEW}
    assert retire_old_keys(USED, in_use=set(), added=None) == {"new": NEW}


@pytest.mark.parametrize(
    ("added", "key_id", "word"),
    [("new", "newer", "--stage use"), (None, "old", "already")],
)
def test_adding_is_refused(added: str | None, key_id: str, word: str) -> None:
    with pytest.raises(RotationRefused, match=word):
        add_key(ADDED, key_id, NEW, added=added)


@pytest.mark.parametrize(
    ("keys", "in_use", "replaced", "word"),
    [
        ({"old": OLD}, {"old"}, set(), "only one key"),
        (USED, {"old"}, set(), "reencrypt"),
        (USED, {"old", "new"}, {"old"}, "--stage retire"),
        (USED, {"new"}, {"old"}, "--stage retire"),
    ],
)
def test_using_a_key_that_is_not_new_is_refused(
    keys: dict[str, bytes], in_use: set[str], replaced: set[str], word: str
) -> None:
    with pytest.raises(RotationRefused, match=word):
        use_newest_key(keys, in_use=in_use, replaced=replaced)


@pytest.mark.parametrize(
    ("keys", "in_use", "word"),
    [
        ({"old": OLD}, {"old"}, "only one key"),
        (USED, {"old", "new"}, "still need old"),
        (USED, {"old"}, "still need old"),
        (USED, {"elsewhere"}, "would be lost"),
    ],
)
def test_retiring_a_key_that_is_needed_is_refused(keys: dict[str, bytes], in_use: set[str], word: str) -> None:
    with pytest.raises(RotationRefused, match=word):
        retire_old_keys(keys, in_use=in_use, added=None)


@pytest.mark.parametrize("keys", [ADDED, {"old": OLD, "older": OLD, "new": NEW}], ids=["alone", "beside an old one"])
def test_retiring_is_refused_while_a_new_key_waits_to_be_used(keys: dict[str, bytes]) -> None:
    with pytest.raises(RotationRefused, match=r"'new' was added .* --stage use"):
        retire_old_keys(keys, in_use={"old"}, added="new")
