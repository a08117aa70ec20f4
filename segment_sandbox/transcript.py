"""A record of every request that the sandbox received on Segment's routes, with secrets taken out."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from urllib.parse import parse_qsl

MASK = "***"
LONGEST_BODY = 16_384
SECRET_HEADERS = frozenset({"authorization", "cookie", "set-cookie", "x-signature"})
SECRET_KEYS = frozenset(
    {
        "access_token",
        "client_secret",
        "code",
        "code_verifier",
        "consent_challenge",
        "login_challenge",
        "password",
        "token",
        "write_key",
        "writekey",
        "write_keys",
    }
)


@dataclass(slots=True)
class RecordedRequest:
    """One request and how it was answered. `status` is None when the connection was reset."""

    id: int
    time: str
    method: str
    path: str
    query_keys: list[str]
    headers: dict[str, str]
    body: object
    status: int | None = None
    fault: bool = False
    profile: str = ""

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class Transcript:
    """The requests received, oldest first, up to a bound."""

    def __init__(self, max_records: int) -> None:
        self.requests: deque[RecordedRequest] = deque(maxlen=max_records)
        self._count = 0

    def add(
        self,
        *,
        time: str,
        method: str,
        path: str,
        query: str,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        profile: str,
    ) -> RecordedRequest:
        """Record a request as it arrives; its `status` is filled in when it is answered."""
        self._count += 1
        headers = [(name.lower(), value) for name, value in headers]
        content_type = next((value for name, value in headers if name == "content-type"), "")
        record = RecordedRequest(
            id=self._count,
            time=time,
            method=method,
            path=path,
            query_keys=[key for key, _ in parse_qsl(query, keep_blank_values=True)],
            headers={name: redact_header(name, value) for name, value in headers},
            body=redact_body(body, content_type),
            profile=profile,
        )
        self.requests.append(record)
        return record

    def clear(self) -> None:
        self.requests.clear()


def redact_header(name: str, value: str) -> str:
    """A header value that may be shown: an Authorization keeps only its scheme."""
    if name.lower() not in SECRET_HEADERS:
        return value
    scheme, separator, _ = value.partition(" ")
    return f"{scheme} {MASK}" if separator and name.lower() == "authorization" else MASK


def redact_body(body: bytes, content_type: str) -> object:
    """A body that may be shown: forms and JSON with their secrets masked, anything else as its length."""
    if not body:
        return None
    if len(body) > LONGEST_BODY:
        return {"bytes": len(body)}
    if "x-www-form-urlencoded" in content_type:
        pairs = parse_qsl(body.decode(errors="replace"), keep_blank_values=True)
        return {key: MASK if key.lower() in SECRET_KEYS else value for key, value in pairs}
    try:
        return redact_value(json.loads(body))
    except (ValueError, RecursionError):
        return {"bytes": len(body)}


def redact_value(value: object) -> object:
    """A JSON value with every secret in it masked, destination API keys included."""
    if isinstance(value, list):
        return [redact_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    is_key_entry = str(value.get("name", "")).lower().endswith("key")
    return {
        key: MASK if key.lower() in SECRET_KEYS or (is_key_entry and key == "value") else redact_value(item)
        for key, item in value.items()
    }
