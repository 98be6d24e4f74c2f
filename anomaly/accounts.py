"""Who may do what: three roles, each of which may do what those before it may."""

from __future__ import annotations

from dataclasses import dataclass

from anomaly.errors import Forbidden

VISITOR, OPERATOR, SUPERVISOR = ROLES = ("visitor", "operator", "supervisor")


@dataclass(frozen=True)
class Person:
    """Somebody at the page or the API."""

    name: str = VISITOR
    role: str = VISITOR

    def may(self, role: str) -> bool:
        """Is this person's role `role` or one above it?"""
        return ROLES.index(self.role) >= ROLES.index(role)

    def require(self, role: str, doing: str) -> None:
        """Raise Forbidden, unless this person may do what `role` may; `doing` says what, as in "save a limit"."""
        if not self.may(role):
            raise Forbidden(f"Only a person with the role of {role} may {doing}", f"Sign in as {role}")
