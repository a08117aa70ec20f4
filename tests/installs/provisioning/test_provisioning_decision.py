"""The decisions of provisioning, without I/O."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.installs.provisioning.decision import (
    HeldKey,
    Progress,
    Seen,
    Step,
    held_key,
    missing_settings,
    next_step,
    settings_to_create,
)
from enable_with_segment.installs.reasons import EXPLANATIONS, Reason, explain
from enable_with_segment.segment_api.catalog import CatalogDestination, CatalogSetting
from enable_with_segment.segment_api.destination import Destination

sightings = st.none() | st.builds(Seen, st.booleans(), st.sampled_from(HeldKey))
KNOWN = st.tuples(st.booleans(), st.booleans(), st.booleans())
LAST = {Step.CONNECTED, Step.ASK, Step.CREATE_FAILED, Step.UPDATE_FAILED}


@given(st.lists(sightings, min_size=1), st.lists(st.booleans()), KNOWN, st.booleans())
def test_a_run_ends_whatever_segment_shows(
    shown: list[Seen | None], confirmed: list[bool], known: tuple[bool, bool, bool], overwrite: bool
) -> None:
    ours, verified, established = known
    progress = Progress()
    for turn in range(10):
        seen = shown[turn % len(shown)]
        written = confirmed[turn % len(confirmed)] if confirmed else True
        step = next_step(seen, progress, ours=ours, verified=verified, established=established, overwrite=overwrite)
        if step in LAST:
            return
        creates, updates = progress.creates + (step is Step.CREATE), progress.updates + (step is Step.UPDATE)
        progress = Progress(creates, updates, written)
    pytest.fail("a run of more than ten steps")


@given(sightings, st.integers(0, 3), st.integers(0, 3), st.booleans(), KNOWN)
def test_a_strangers_destination_is_never_touched_unasked(
    seen: Seen | None, creates: int, updates: int, written: bool, known: tuple[bool, bool, bool]
) -> None:
    ours, verified, established = known
    progress = Progress(creates, updates, written)
    step = next_step(seen, progress, ours=ours, verified=verified, established=established, overwrite=False)
    if seen is not None and (seen.enabled or established) and seen.key is HeldKey.ANOTHER:
        assert step is Step.ASK
    if step is Step.CONNECTED:
        assert seen is not None
        assert seen.enabled
        assert seen.key in {HeldKey.WANTED, HeldKey.UNKNOWN}


@pytest.mark.parametrize(
    ("value", "is_ours", "expected"),
    [
        ("wanted-51f0", False, HeldKey.WANTED),
        ("older", True, HeldKey.OURS),
        ("stranger", False, HeldKey.ANOTHER),
        ("••••••••", False, HeldKey.UNKNOWN),
        ("••••••••••51f0", False, HeldKey.UNKNOWN),
        ("••••••••••aaaa", False, HeldKey.ANOTHER),
        ("••••••••••a", False, HeldKey.UNKNOWN),
        ("**********aaaa", False, HeldKey.ANOTHER),
        ("", False, HeldKey.UNKNOWN),
        (None, False, HeldKey.UNKNOWN),
        (7, False, HeldKey.UNKNOWN),
    ],
)
def test_whose_key_a_destination_holds(value: object, is_ours: bool, expected: HeldKey) -> None:
    destination = Destination("d", enabled=True, display_name="", settings={"apiKey": value})
    assert held_key(destination, "wanted-51f0", is_ours=is_ours) is expected


def test_settings_are_overlaid_and_checked_against_the_catalog() -> None:
    catalog = CatalogDestination(
        "catalog/destinations/acme-crm",
        "Acme CRM",
        (
            CatalogSetting("apiKey", "string", required=True, deprecated=False),
            CatalogSetting("region", "string", required=False, deprecated=False),
            CatalogSetting("list", "string", required=True, deprecated=False),
            CatalogSetting("old", "string", required=True, deprecated=True),
        ),
    )
    defaults, chosen = {"region": "us", "gone": 1, "apiKey": "never"}, {"region": "eu"}
    assert settings_to_create(defaults, chosen, None) == {"region": "eu", "gone": 1}
    assert settings_to_create(defaults, chosen, catalog) == {"region": "eu"}
    assert missing_settings({"region": "eu"}, catalog) == ["list"]
    assert missing_settings({"region": "eu"}, None) == []


def test_every_reason_has_a_sentence_that_can_be_filled_in() -> None:
    assert set(EXPLANATIONS) == set(Reason)
    for reason in Reason:
        _, sentence = explain(reason, source="workspaces/w/sources/web-prod", detail="{x}")
        assert "{source}" not in sentence
        assert sentence.endswith(".")
