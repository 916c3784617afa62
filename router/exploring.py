"""Exploration: now and then a candidate that is expected to be nearly as good answers, so that feedback tells of it.

Off by default. Which requests explore is decided by their ids alone, so a request that is sent again under the same id
goes the same way, and no more than the stated share of them does.
"""

from router.choice import BASE_BETTER, LOW_CONFIDENCE, MATCHED
from router.drawing import drawn
from router.selection import Choice
from specs.evidence import Evidence

EXPLORED = ":explore"
"""Ending of the reason of a choice that explores."""
BY_THE_RULE = (MATCHED, BASE_BETTER, LOW_CONFIDENCE)
"""Reasons of choices that the expected qualities decided; only such a choice may explore."""
NEAR_EQUAL = 0.1
"""Expected quality that exploration may give up: half the standard deviation that a gain has before feedback."""


def explored(choice: Choice, request_id: str, share: float, evidence: Evidence | None) -> Choice:
    """Returns the choice for a request that explores, or `choice` itself. Explored is, among the candidates whose
    expected quality is at most `NEAR_EQUAL` below that of the chosen one (the base model, or a learnware), the one that
    feedback has told least of for the likeliest task.

    Left alone are choices by name, of an earlier turn, for a whole task (also where the base model answers it), and
    all that something other than the expected qualities gave to the base model, such as an asked explanation.
    """
    if share <= 0 or choice.reason not in BY_THE_RULE or not drawn("explore", request_id, share):
        return choice
    expected = {one.learnware_id: one.expected for one in choice.candidates}
    chosen = choice.base if choice.learnware_id is None else expected.get(choice.learnware_id, choice.base)
    equals = [
        one
        for one in choice.candidates
        # a whole task's candidates have the quality 0: none may replace its choice
        if one.learnware_id != choice.learnware_id and one.quality > 0 and one.expected >= chosen - NEAR_EQUAL
    ]
    if not equals:
        return choice
    row = (
        {} if evidence is None or not choice.probabilities else evidence.posteriors.get(choice.probabilities[0][0], {})
    )
    told = {name: posterior.pieces for name, posterior in row.items()}
    least = min(equals, key=lambda one: (told.get(one.learnware_id, 0.0), -one.expected))
    return choice._replace(learnware_id=least.learnware_id, reason=MATCHED + EXPLORED)
