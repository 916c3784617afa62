"""Names that may have been meant are offered, the likeliest first, and only where one is near."""

import pytest

from specs.suggestion import did_you_mean


@pytest.mark.parametrize(
    ("name", "most", "hint"),
    [
        ("authr", 1, "; did you mean author?"),
        ("finance-tfnz", 3, "; did you mean finance-tfns, finance-fiqa?"),
        ("finance-tfnz", 1, "; did you mean finance-tfns?"),
        ("%%%", 3, ""),
    ],
)
def test_near_names_are_offered(name: str, most: int, hint: str) -> None:
    assert did_you_mean(name, ["finance-fiqa", "author", "finance-tfns"], most) == hint
