"""What learnwares are asked off their tasks, and what is counted of their answers."""

import pytest

from benchmarks.degenerate import as_table, requests, summary
from specs.prompts import REHEARSED, everyday_prompts, half


def test_requests_are_not_the_task_and_were_not_rehearsed() -> None:
    prompts = [
        f"What is the sentiment of this tweet? Answer with one word.\nShares of firm {i} fell." for i in range(99)
    ]
    asked = requests("finance-tfns", prompts)
    kinds = {kind: [one.prompt for one in asked if one.kind == kind] for kind in ("questions", "asks", "everyday")}
    assert sum(map(len, kinds.values())) == len(asked) >= 300
    assert min(map(len, kinds.values())) >= 50
    assert not set(kinds["everyday"]) & set(half(everyday_prompts(), REHEARSED))
    assert all("Shares of firm" in prompt and "Answer with one word" not in prompt for prompt in kinds["asks"])
    assert asked == requests("finance-tfns", prompts)


def test_a_summary_counts_by_kind_of_request() -> None:
    prompts = [f"Label it.\nline {i}" for i in range(9)]
    asked = requests("finance-tfns", prompts)
    answers = [{"text": "", "degenerate": i % 4 == 2, "base": i % 4 == 0, "drift": -0.5} for i in range(len(asked))]
    found = summary(asked, answers)
    assert found["all"]["degenerate"]["mean"] == pytest.approx(0.25, abs=0.01)
    assert found["all"]["base"] == pytest.approx(0.25, abs=0.01)
    assert found["all"]["drift"] == -0.5
    assert sum(found[kind]["requests"] for kind in ("questions", "asks", "everyday")) == found["all"]["requests"]
    assert "→" not in as_table({"finance-tfns": found})
    own = {"before": 0.79, "after": 0.8, "mcnemar_p": 0.75}
    assert "79.0 → 80.0 | 0.75 |" in " ".join(as_table({"finance-tfns": found | {"own_task": own}}).split())
