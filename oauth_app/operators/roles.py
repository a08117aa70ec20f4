"""Who may do what: a pure decision from the claims of an ID token and two lists in the settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

SIGN_IN_LINK = "sign-in link"
_GROUP = "group:"
_LONGEST_NAME = 200


class Role(StrEnum):
    """A viewer looks; an operator also acts."""

    VIEWER = "viewer"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who is signed in to the dashboard."""

    name: str
    role: Role
    granted_by: str = SIGN_IN_LINK
    """The entry of ``OPERATORS`` or ``VIEWERS`` that lets this one in, or that it was a sign-in link."""

    @property
    def actor(self) -> str:
        """The name in the audit."""
        return f"operator:{self.name}"

    @property
    def may_act(self) -> bool:
        """Whether this one may change anything."""
        return self.role is Role.OPERATOR


@dataclass(frozen=True, slots=True)
class AccessLists:
    """``OPERATORS`` and ``VIEWERS``: e-mail addresses, and ``group:NAME`` for a value of the groups claim.

    ``links`` is whether sign-in links are let in, too.
    """

    operators: Collection[str]
    viewers: Collection[str]
    groups_claim: str = "groups"
    links: bool = False

    def still_allows(self, operator: Operator) -> bool:
        """Tell whether what let somebody in when they signed in would still do so."""
        if operator.granted_by == SIGN_IN_LINK:
            return self.links
        allowed = self.operators if operator.may_act else self.viewers
        return operator.granted_by in {_normal(entry) for entry in allowed}

    def operator_of(self, claims: Mapping[str, Any]) -> Operator | None:
        """Tell who the claims are about and what they may do; ``None`` for somebody on neither list.

        An address counts only if the provider says that it verified it (OpenID Connect Core section 5.1).
        """
        names = self._names(claims)
        for role, allowed in ((Role.OPERATOR, self.operators), (Role.VIEWER, self.viewers)):
            if granting := names & {_normal(entry) for entry in allowed}:
                return Operator(_shown_name(claims), role, min(granting))
        return None

    def _names(self, claims: Mapping[str, Any]) -> set[str]:
        names: set[str] = set()
        email = claims.get("email")
        if isinstance(email, str) and claims.get("email_verified") is True and not email.startswith(_GROUP):
            names.add(_normal(email))
        groups = claims.get(self.groups_claim)
        for group in groups if isinstance(groups, list) else [groups]:
            if isinstance(group, str):
                names.add(_GROUP + group)
        return names


def _normal(entry: str) -> str:
    """Addresses are compared without regard to case, names of groups exactly."""
    return entry if entry.startswith(_GROUP) else entry.lower()


def _shown_name(claims: Mapping[str, Any]) -> str:
    """A verified address if there is one; otherwise what the provider says never changes."""
    email = claims.get("email")
    if isinstance(email, str) and claims.get("email_verified") is True:
        return email[:_LONGEST_NAME]
    return str(claims["sub"])[:_LONGEST_NAME]
