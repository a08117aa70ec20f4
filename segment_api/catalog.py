"""The catalog's entry of a destination: which settings it takes (contract 3.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from enable_with_segment.segment_api.errors import InvalidAnswer, foreign_text


@dataclass(frozen=True, slots=True)
class CatalogSetting:
    """One setting that a destination takes."""

    key: str
    type: str
    required: bool
    deprecated: bool


@dataclass(frozen=True, slots=True)
class CatalogDestination:
    """A destination that can be connected to a source."""

    name: str
    display_name: str
    settings: tuple[CatalogSetting, ...]

    @property
    def setting_keys(self) -> frozenset[str]:
        """Every setting's key."""
        return frozenset(setting.key for setting in self.settings)


def read_catalog_destination(body: Mapping[str, Any]) -> CatalogDestination:
    """Read a catalog entry; nested settings are listed beside their parents.

    Raises:
        InvalidAnswer: no name.
    """
    name = body.get("name")
    if not isinstance(name, str):
        raise InvalidAnswer("the answer is not a catalog entry")
    return CatalogDestination(name, foreign_text(body.get("display_name")), tuple(_settings(body.get("settings"))))


def _settings(entries: object) -> Iterator[CatalogSetting]:
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            yield CatalogSetting(
                key=entry["name"].rpartition("/")[2],
                type=foreign_text(entry.get("type")),
                required=entry.get("required") is True,
                deprecated=entry.get("deprecated") is True,
            )
            yield from _settings(entry.get("settings"))
