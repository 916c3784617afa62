"""The filters by which records are looked for."""

from typing import Any, NamedTuple

STATUS_CLASS = 100
"""Width of a class of HTTP statuses, such as 4xx."""


class Filters(NamedTuple):
    """The records that are wanted; None filters by nothing."""

    tenant: str | None = None
    id: str | None = None
    """The request's id."""
    learnware: str | None = None
    """The model that answered."""
    reason: str | None = None
    status: range | None = None
    """HTTP statuses."""
    task: str | None = None
    """The likeliest task of the choice."""
    before: float | None = None
    """Epoch time in seconds before which the request came."""
    after: float | None = None
    """Epoch time in seconds after which the request came."""
    limit: int = 50
    """The most records."""

    def as_sql(self) -> tuple[str, tuple[Any, ...]]:
        """Returns the WHERE clause over `serving.decisions.rows.SELECT`, empty without filters, and its values."""
        conditions: list[tuple[str, tuple[Any, ...]]] = []
        for column, value in (
            ("r.tenant = ?", self.tenant),
            ("r.id = ?", self.id),
            ("r.learnware = ?", self.learnware),
            ("r.reason = ?", self.reason),
            ("c.task = ?", self.task),
            ("r.time < ?", self.before),
            ("r.time > ?", self.after),
        ):
            if value is not None:
                conditions.append((column, (value,)))
        if self.status is not None:
            conditions.append(("r.status >= ? AND r.status < ?", (self.status.start, self.status.stop)))
        if not conditions:
            return "", ()
        clause = " AND ".join(condition for condition, _ in conditions)
        return f"WHERE {clause}", tuple(value for _, values in conditions for value in values)
