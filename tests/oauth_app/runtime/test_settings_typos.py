"""A setting that is misspelt in ``.env`` is told, and a partner's own variable is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.oauth_app.doctor.configuration import check_names
from enable_with_segment.oauth_app.doctor.finding import Level
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.settings_typos import misspelt, misspelt_settings

NAMES = [name.upper() for name in Settings.model_fields]


def test_what_is_almost_a_setting_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert misspelt_settings(tmp_path) == []
    assert check_names().level is Level.OK
    text = "HANDLER_SECOND=7\nHANDLERS=a:b\nACME_DATABASE_PASSWORD=x\nHOOK_SECRET=y\nDATABASE_URL=$HOME\n"
    (tmp_path / ".env").write_text(text)
    (told,) = misspelt_settings(tmp_path)
    assert "HANDLER_SECOND," in told
    assert "HANDLER_SECONDS" in told
    found = check_names()
    assert (found.level, "HANDLER_SECOND," in found.message) == (Level.WARNING, True)


@given(st.sampled_from(NAMES), st.integers(0, 30))
def test_a_letter_too_few_is_found_in_every_longer_name(name: str, place: int) -> None:
    assert misspelt([name, name.lower()], NAMES) == []
    shorter = name[: place % len(name)] + name[place % len(name) + 1 :]
    if len(name) >= 8 and shorter not in NAMES:
        assert [wrong for wrong, _ in misspelt([shorter], NAMES)] == [shorter]


@given(st.lists(st.text(max_size=30), max_size=5))
def test_any_names_can_be_compared(names: list[str]) -> None:
    assert {name for name, _ in misspelt(names, NAMES)} <= set(names)
