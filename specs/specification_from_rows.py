"""Makes a learnware's specification from its provider's rows, or from examples alone, where they lie."""

from collections import Counter
from collections.abc import Sequence

from specs.answers.description import Answers, describe_answers
from specs.compositions import asked_and_declined
from specs.encoding.ask import split_prompt
from specs.encoding.encoder import load_prompt_encoder
from specs.routed_rows import routed_rows
from specs.row_forms import FormedRow
from specs.specification import POINTS_PER_VIEW, Specification, make_specification

ROW_LIMIT = 5_000
"""Rows that a specification is made from at most: the reduced set has 50 points a view, and more rows do not move
them."""
COMMON_SHARE = 0.05
"""Share of the rows from which on an ask is the task's own wording, and no single row's."""
COMMON_ROWS = 3
"""The fewest rows that an ask must be in to be the task's own wording."""


def specification_from_rows(
    rows: Sequence[FormedRow], examples: Sequence[str] = (), points: int = POINTS_PER_VIEW
) -> Specification:
    """Returns the specification of a learnware for these rows, as the router reads them (`specs.routed_rows`);
    `examples` are those of its card. Where there are none, the asks that many rows share stand for them in composed
    requests. Without rows the examples alone are its prompts, and nothing is known of its answers.

    Raises:
        InvalidSpecification: there are neither rows nor examples.
    """
    routed = routed_rows(rows)
    prompts = [row.prompt for row in routed]
    answers = answers_of(routed)
    asked, declined = asked_and_declined(prompts, examples or common_asks(prompts), answers)
    texts = {"whole": prompts, "examples": examples, "asked": asked}
    return make_specification(texts, load_prompt_encoder(), points, answers, declined)


def answers_of(rows: Sequence[FormedRow]) -> Answers | None:
    """Describes the rows' answers; None where there is no row, or one has none."""
    if not rows or not all(row.answer for row in rows):
        return None
    return describe_answers([row.answer for row in rows], [row.choices for row in rows])


def common_asks(prompts: Sequence[str]) -> list[str]:
    """Returns the asks that many of the prompts share, the commonest first: wordings of the task, of nobody's row."""
    counted = Counter(" ".join(split_prompt(prompt).ask) for prompt in prompts)
    least = max(COMMON_ROWS, COMMON_SHARE * len(prompts))
    return [ask for ask, count in counted.most_common() if ask and count >= least]
