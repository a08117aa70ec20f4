"""Looking for known secrets in whatever was written, in clear and in the forms that secrets usually travel in."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterator, Mapping
from urllib.parse import quote

_SHORTEST = 10


class KnownSecrets:
    """Every secret a journey used, by kind."""

    def __init__(self) -> None:
        self.by_kind: dict[str, set[str]] = defaultdict(set)

    def add(self, kind: str, *values: str) -> None:
        """Note secrets. They have to be long enough not to occur by chance."""
        for value in values:
            assert len(value) >= _SHORTEST, f"this {kind} is too short to be looked for"
            self.by_kind[kind].add(value)

    def leaks(self, places: Mapping[str, bytes], *, allowed: Mapping[str, str] | None = None) -> list[str]:
        """Return "kind in place" for every secret that stands somewhere; never the secret itself.

        Args:
            places: what was written, by a name for it.
            allowed: kinds of secrets that places whose name begins so may hold: ``{"address": "connect link"}``.
        """
        found = set()
        for kind, values in self.by_kind.items():
            for place, content in places.items():
                if any(place.startswith(prefix) and kind == exempt for prefix, exempt in (allowed or {}).items()):
                    continue
                if any(form in content for value in values for form in forms_of(value)):
                    found.add(f"{kind} in {place}")
        return sorted(found)


def forms_of(value: str) -> Iterator[bytes]:
    """A secret as it is, escaped for a URL, as hex, and inside a longer text that was encoded as base64."""
    raw = value.encode()
    yield raw
    yield quote(value, safe="").encode()
    yield raw.hex().encode()
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw)[(0, 2, 3)[shift] : (shift + len(raw)) * 8 // 6]
        yield encoded
        yield encoded.replace(b"+", b"-").replace(b"/", b"_")
