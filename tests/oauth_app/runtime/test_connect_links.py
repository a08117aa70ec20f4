"""Connect links in a partner's own backend, as docs/install-flow.md makes them."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import pytest

from enable_with_segment import Settings, open_connect_links
from enable_with_segment.db.problems import StoreMissing
from tests import migrated

DOCUMENTED = Path(__file__).parents[3] / "docs" / "install-flow.md"


@pytest.fixture(autouse=True)
def _backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a backend beside the service: no encryption keys."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("BASE_URL", "https://segment.acme.example")
    monkeypatch.setenv("DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/control.db")
    monkeypatch.setenv("HANDLERS", "tests.oauth_app.operations:crm")
    monkeypatch.setenv("RETURN_ORIGINS", "https://app.acme.example")


async def test_the_documented_sample_prints_a_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    migrated.lay_out(tmp_path / "control.db")
    block = DOCUMENTED.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(f"async def backend():\n{textwrap.indent(block, '    ')}", names)  # noqa: S102 - our own page
    await names["backend"]()
    assert capsys.readouterr().out.startswith("https://segment.acme.example/connect/")


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"account": ""}, "account"),
        ({"account": "acct_42", "return_to": "https://elsewhere.example/"}, "RETURN_ORIGINS"),
        ({"account": "acct_42", "settings": {"colour": "red"}}, "colour"),
        ({"account": "acct_42", "reconnects": "ins_00000000000000000000"}, "ins_0"),
    ],
)
async def test_what_is_refused_is_a_value_error_with_a_sentence(
    tmp_path: Path, wrong: dict[str, Any], word: str
) -> None:
    migrated.lay_out(tmp_path / "control.db")
    async with open_connect_links() as links:
        with pytest.raises(ValueError, match=word):
            await links.create(**wrong)


async def test_a_store_that_the_service_has_not_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match=r"control\.db"):
        async with open_connect_links():
            raise AssertionError
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - nothing was made
