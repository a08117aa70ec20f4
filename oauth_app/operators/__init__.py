"""Operators: who may use the dashboard, how they sign in, and how long they stay signed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a command that makes a sign-in link does not wait for OpenID Connect
    from enable_with_segment.oauth_app.operators.logins import Logins
    from enable_with_segment.oauth_app.operators.sessions import Sessions
    from enable_with_segment.oauth_app.operators.sign_in_links import SignInLinks


@dataclass(frozen=True, slots=True)
class Operators:
    """Everything about operators. ``logins`` needs an identity provider, ``links`` a loopback ``BASE_URL``."""

    sessions: Sessions
    logins: Logins | None
    links: SignInLinks | None


__all__ = ["Operators"]
