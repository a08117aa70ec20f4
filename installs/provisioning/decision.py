"""What to do next about a destination, from what was seen and what was done. No I/O.

Segment's answers to a create are ambiguous ("already exists or other internal error", contract 3.3), so a step is
never chosen by such an answer but by a GET after it.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from enable_with_segment.segment_api.catalog import CatalogDestination
from enable_with_segment.segment_api.destination import API_KEY_SETTING, Destination

_MOST_CREATES = 2
_MOST_UPDATES = 2
_SHORTEST_TAIL = 4


class HeldKey(StrEnum):
    """Whose key a destination holds."""

    WANTED = "wanted"
    OURS = "ours"
    ANOTHER = "another"
    UNKNOWN = "unknown"


class Step(StrEnum):
    """What to do next; the last four end the run."""

    CREATE = "create"
    UPDATE = "update"
    CONNECTED = "connected"
    ASK = "ask"
    CREATE_FAILED = "create_failed"
    UPDATE_FAILED = "update_failed"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a GET showed.

    Attributes:
        settled: every setting that still had to be written shows the wanted value.
    """

    enabled: bool
    key: HeldKey
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Progress:
    """What this run has done.

    Attributes:
        creates, updates: how many were sent.
        written: the last thing done was a write that Segment confirmed.
    """

    creates: int = 0
    updates: int = 0
    written: bool = False


def next_step(
    seen: Seen | None, progress: Progress, *, ours: bool, verified: bool, established: bool, overwrite: bool
) -> Step:
    """Choose the next step.

    Args:
        seen: the destination, ``None`` if there is none.
        ours: there is reason to believe that the destination is ours: an earlier run was right to write to it,
            or verified it. Lets a key that cannot be read pass for ours.
        verified: the wanted key was verified in an earlier run.
        established: it was connected before. Somebody who gave it another key then did so on purpose, so that key is
            not replaced unasked even if the destination is switched off.
        overwrite: another key may be replaced without asking (case 50).
    """
    if seen is None:
        return Step.CREATE if progress.creates < _MOST_CREATES else Step.CREATE_FAILED
    as_wanted = seen.key is HeldKey.WANTED or (seen.key is HeldKey.UNKNOWN and (progress.written or verified))
    if seen.enabled and as_wanted and (seen.settled or progress.written):
        return Step.CONNECTED
    on_purpose = established and seen.key is HeldKey.ANOTHER
    somebody_elses = seen.enabled and _somebody_elses(seen.key, ours=ours or progress.written)
    if not overwrite and (on_purpose or somebody_elses):
        return Step.ASK
    return Step.UPDATE if progress.updates < _MOST_UPDATES else Step.UPDATE_FAILED


def held_key(destination: Destination, wanted: str, *, is_ours: bool) -> HeldKey:
    """Tell whose key a destination holds. A masked one is unknown, unless its visible end speaks against it.

    Args:
        wanted: the key it should hold.
        is_ours: whether the key it shows is one of this account's, if it shows one.
    """
    if destination.api_key is not None:
        if hmac.compare_digest(destination.api_key.encode(), wanted.encode()):
            return HeldKey.WANTED
        return HeldKey.OURS if is_ours else HeldKey.ANOTHER
    tail = destination.api_key_tail
    if tail is not None and len(tail) >= _SHORTEST_TAIL and not wanted.endswith(tail):
        return HeldKey.ANOTHER
    return HeldKey.UNKNOWN


def settings_to_create(
    defaults: Mapping[str, object], chosen: Mapping[str, object], catalog: CatalogDestination | None
) -> dict[str, object]:
    """Overlay the component's defaults with the customer's choices; the catalog, if readable, says which exist."""
    settings = {key: value for key, value in {**defaults, **chosen}.items() if key != API_KEY_SETTING}
    if catalog is None:
        return settings
    return {key: value for key, value in settings.items() if key in catalog.setting_keys}


def missing_settings(settings: Collection[str], catalog: CatalogDestination | None) -> list[str]:
    """Return the required settings that nobody gave, as far as the catalog tells."""
    if catalog is None:
        return []
    return [
        setting.key
        for setting in catalog.settings
        if setting.required
        and not setting.deprecated
        and setting.key != API_KEY_SETTING
        and setting.key not in settings
    ]


def _somebody_elses(key: HeldKey, *, ours: bool) -> bool:
    return key is HeldKey.ANOTHER or (key is HeldKey.UNKNOWN and not ours)
