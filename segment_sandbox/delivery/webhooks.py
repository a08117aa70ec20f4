"""Segment's own Webhooks destinations, classic and Actions: what they send, signed and in batches (contract 5.12)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox.config import ConfigError
from enable_with_segment.segment_sandbox.jsontext import encode
from enable_with_segment.segment_sandbox.tracking.events import Event

Variant = Literal["classic", "actions"]

CLASSIC_USER_AGENT = "Segment.io/1.0"
ACTIONS_USER_AGENT = "Segment (Actions)"
TIMEOUT_SECONDS: Mapping[Variant, float] = {"classic": 5.0, "actions": 10.0}
MOST_URLS = 5
MOST_BATCHED = 4_000
METHODS = ("POST", "PUT", "PATCH")


@dataclass(slots=True)
class WebhooksDestination:
    """One Webhooks destination of a source.

    `urls` are up to five for classic, where one success counts for all, and one for Actions. `fields` is the mapping
    of Actions: the top-level fields that are sent, or None for the whole event. A `batch_size` of 0 sends single
    events.

    Raises `ConfigError` for what Segment's forms would not take.
    """

    slug: str
    source: str
    variant: Variant
    urls: tuple[str, ...]
    shared_secret: str = ""
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    batch_size: int = 0
    fields: tuple[str, ...] | None = None
    enabled: bool = True

    def __post_init__(self) -> None:
        if not 1 <= len(self.urls) <= (MOST_URLS if self.variant == "classic" else 1):
            raise ConfigError("A classic Webhooks destination has one to five URLs, one of Actions has one.")
        for url in self.urls:
            if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
                raise ConfigError(f"{url!r} is not an absolute http(s) URL.")
        if self.method not in (METHODS if self.variant == "actions" else ("POST",)):
            raise ConfigError(f"{self.method!r} is not a method that this destination sends with.")
        if not 0 <= self.batch_size <= MOST_BATCHED:
            raise ConfigError(f"batch_size is between 0 and {MOST_BATCHED}.")
        if not all(f"{name}{value}".isascii() for name, value in self.headers.items()):
            raise ConfigError("Headers are ASCII only.")

    @property
    def name(self) -> str:
        return f"{self.source}/destinations/{self.slug}"

    def text_of(self, event: Event) -> bytes:
        """The JSON text of one event, after the mapping."""
        chosen = event if self.fields is None else {key: event[key] for key in self.fields if key in event}
        return encode(as_javascript(chosen))

    def requests(self, body: bytes, first: bytes) -> list[httpx.Request]:
        """The requests for a body, one for each URL. `first` is the text that is signed."""
        return [
            httpx.Request(self.method, url, headers=self._headers(url, body, first), content=body) for url in self.urls
        ]

    def _headers(self, url: str, body: bytes, first: bytes) -> list[tuple[str, str]]:
        mapped = {name.lower() for name in self.headers}
        headers = [
            ("Host", httpx.URL(url).netloc.decode()),
            ("Accept", "*/*"),
            ("Content-Length", str(len(body))),
            ("Content-Type", "application/json"),
            ("User-Agent", CLASSIC_USER_AGENT if self.variant == "classic" else ACTIONS_USER_AGENT),
        ]
        headers = [(name, value) for name, value in headers if name.lower() not in mapped]
        headers += self.headers.items()
        if self.shared_secret:
            headers.append(("X-Signature", signature(self.shared_secret, first)))
        return headers


def signature(secret: str, text: bytes) -> str:
    """Lower-case hex HMAC-SHA1 of a JSON text."""
    return hmac.new(secret.encode(), text, hashlib.sha1).hexdigest()


def as_javascript(value: object) -> object:
    """A value whose JSON text is JavaScript's: `1.0` is `1`, and keys that look like indexes come first, sorted."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, Mapping):
        indexes = sorted((key for key in value if _is_index(key)), key=int)
        others = [key for key in value if not _is_index(key)]
        return {key: as_javascript(value[key]) for key in (*indexes, *others)}
    return [as_javascript(item) for item in value] if isinstance(value, list) else value


def _is_index(key: object) -> bool:
    return isinstance(key, str) and key.isascii() and key.isdigit() and str(int(key)) == key and int(key) < 2**32 - 1
