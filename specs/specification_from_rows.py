"""Makes a learnware's specification from its provider's rows, or from examples alone, where they lie."""

from collections.abc import Sequence

from specs.answers.description import Answers, describe_answers
from specs.compositions import asked_and_declined
from specs.encoding.encoder import load_prompt_encoder
from specs.routed_rows import routed_rows
from specs.row_forms import FormedRow
from specs.specification import POINTS_PER_VIEW, Specification, make_specification

ROW_LIMIT = 5_000
"""Rows that a specification is made from at most: the reduced set has 50 points a view, and more rows do not move
them."""
MOST_TOLD = 24
"""The most different answers that are taken for labels where no row names its choices."""
ROWS_A_LABEL = 5
"""Rows that there must be for each different answer for them to be taken for labels: spans and names hardly repeat."""


def specification_from_rows(
    rows: Sequence[FormedRow], examples: Sequence[str] = (), points: int = POINTS_PER_VIEW
) -> Specification:
    """Returns the specification of a learnware for these rows, as the router reads them (`specs.routed_rows`);
    `examples` are those of its card. Without rows the examples alone are its prompts, and nothing is known of its
    answers.

    Raises:
        InvalidSpecification: there are neither rows nor examples.
    """
    routed = routed_rows(rows)
    prompts = [row.prompt for row in routed]
    answers = answers_of(routed)
    asked, declined = asked_and_declined(prompts, examples, answers)
    texts = {"whole": prompts, "examples": examples, "asked": asked}
    return make_specification(texts, load_prompt_encoder(), points, answers, declined)


def answers_of(rows: Sequence[FormedRow]) -> Answers | None:
    """Describes the rows' answers; None where there is no row, or one has none. Short answers of which there are few
    different ones, each again and again, are labels, also where no row names its choices, as chats never do."""
    if not rows or not all(row.answer for row in rows):
        return None
    answers = [row.answer.strip() for row in rows]
    described = describe_answers(answers, [row.choices for row in rows], [row.prompt for row in rows])
    different = tuple(dict.fromkeys(answers))
    repeated = 2 <= len(different) <= MOST_TOLD and len(answers) >= ROWS_A_LABEL * len(different)
    if described.kind != "span" or not repeated:
        return described
    return describe_answers(answers, [different] * len(answers))
