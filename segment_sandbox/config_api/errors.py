"""The Config API's refusals (contract 3.7): a text, and the gRPC status number beside the HTTP one."""

from __future__ import annotations


class ConfigApiError(Exception):
    """A refusal of the Config API: HTTP status, gRPC code and text."""

    def __init__(self, status: int, code: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.text = text

    @property
    def body(self) -> dict[str, object]:
        return {"error": self.text, "code": self.code}


def invalid_argument(text: str) -> ConfigApiError:
    return ConfigApiError(400, 3, text)


def not_found(text: str) -> ConfigApiError:
    return ConfigApiError(404, 5, text)


def already_exists(text: str) -> ConfigApiError:
    return ConfigApiError(409, 6, text)


def permission_denied(text: str = "insufficient scope") -> ConfigApiError:
    return ConfigApiError(403, 7, text)


def resource_exhausted() -> ConfigApiError:
    return ConfigApiError(429, 8, "rate limit exceeded")


def internal(text: str) -> ConfigApiError:
    return ConfigApiError(500, 13, text)


def unauthenticated() -> ConfigApiError:
    """Expired, replaced and unknown tokens all read like this (contract 2.7)."""
    return ConfigApiError(401, 16, "malformed token")
