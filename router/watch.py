"""The seam by which something outside, such as traces, watches a router's requests."""

from typing import Protocol

from starlette.types import ASGIApp

from router.selection import Choice


class Watch(Protocol):
    """Watches the requests of one router."""

    def around(self, app: ASGIApp) -> ASGIApp:
        """Returns the router's application, or one around it."""
        ...

    def decided(self, choice: Choice, waited_s: float) -> None:
        """Takes note of the running request's choice, and of the seconds that it waited before that began."""
        ...


class _NoWatch:
    def around(self, app: ASGIApp) -> ASGIApp:
        return app

    def decided(self, choice: Choice, waited_s: float) -> None:
        """Takes no note."""


NO_WATCH: Watch = _NoWatch()
"""Watches nothing."""
