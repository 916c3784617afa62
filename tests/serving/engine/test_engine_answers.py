"""On a real engine on CPU: every row of a mixed batch is answered as if it had come alone.

With vLLM's own worker these tests fail: its base rows take the last slot's adapter
(`LEARNWARE_TEST_WORKER=auto python -m pytest tests/serving/engine/test_engine_answers.py` shows it).
"""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.serving.random_adapters import (
    ATTENTION,
    MEAN_TOLERANCE,
    MLP,
    differences,
    engine_arguments,
    run_engine,
    write_adapter,
)

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

SLOTS, TOKENS = 4, 8
ADAPTERS = {  # name: rank, modules
    "all-16": (16, ATTENTION + MLP),
    "all-8": (8, ATTENTION + MLP),
    "attention-4": (4, ATTENTION),
    "query-value-16": (16, ("q_proj", "v_proj")),
    "mlp-8": (8, MLP),
    "all-4": (4, ATTENTION + MLP),
}
SHORT = "The capital of France is"
LONG = (
    "The river rises in the hills above the old town, where shepherds still keep their flocks in summer. In spring, "
    "when the snow melts, it floods the lower meadows, and the farmers move their cattle to higher ground. Last year "
    "the water came early. By the first week of March the bridge was closed, and the children had to"
)
PROMPTS = [SHORT, LONG, "Once upon a time there was a small", "def add(a, b):\n    return"]
# Rows of one batch each. Together the first fills all slots, with base rows at the ends and between; the second evicts.
BATCHES = {
    "every slot and the base": [
        (SHORT, None),
        (SHORT, "all-16"),
        (LONG, None),
        (LONG, "all-8"),
        (PROMPTS[2], "attention-4"),
        (PROMPTS[2], None),
        (PROMPTS[3], "query-value-16"),
        (SHORT, "query-value-16"),
        (PROMPTS[3], None),
    ],
    "newcomers beside residents": [
        (PROMPTS[2], "mlp-8"),
        (SHORT, None),
        (LONG, "all-4"),
        (SHORT, "all-16"),
        (PROMPTS[3], "query-value-16"),
        (LONG, None),
    ],
    "one adapter, several rows": [(prompt, "all-8") for prompt in PROMPTS],
    "base only, slots full": [(prompt, None) for prompt in PROMPTS],
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One engine for the module (about 35 s to start): each row alone, then each batch, then adapters to refuse."""
    folder = tmp_path_factory.mktemp("engine")
    adapters = {
        name: write_adapter(folder / name, rank, modules, seed)
        for seed, (name, (rank, modules)) in enumerate(ADAPTERS.items())
    }
    bad = {
        "matches no layer": {"first_layer": 30},
        "partly matches": {"first_layer": 1},
        "wrong shape": {"fewer_features": 8},
        "not finite": {"not_finite": 1},
        "half a pair": {"missing": 1},
    }
    refused = {name: write_adapter(folder / name, 4, ATTENTION, 100, **change) for name, change in bad.items()}
    singles = sorted({row for batch in BATCHES.values() for row in batch}, key=str)
    worker = {"worker_cls": os.environ["LEARNWARE_TEST_WORKER"]} if "LEARNWARE_TEST_WORKER" in os.environ else {}
    order = {
        "engine": engine_arguments(SLOTS) | worker,
        "adapters": adapters,
        "refused": refused,
        "tokens": TOKENS,
        "batches": [[row] for row in singles] + list(BATCHES.values()),
    }
    written = run_engine(Path(__file__).with_name("engine_answers.py"), folder, order)
    written["alone"] = dict(zip(singles, (batch[0] for batch in written["batches"]), strict=False))
    written["mixed"] = dict(zip(BATCHES, written["batches"][len(singles) :], strict=True))
    return written


@pytest.mark.parametrize("name", BATCHES)
def test_each_row_of_a_batch_is_answered_as_if_alone(answers: dict[str, Any], name: str) -> None:
    wrong = {
        f"{adapter or 'base'}: {prompt[:20]}": found
        for (prompt, adapter), mixed in zip(BATCHES[name], answers["mixed"][name], strict=True)
        if (found := differences(mixed, answers["alone"][prompt, adapter]))
    }
    assert not wrong


@pytest.mark.parametrize("base", [True, False], ids=["base rows", "rows with an adapter"])
def test_on_average_answers_hardly_move(answers: dict[str, Any], base: bool) -> None:
    moved = [
        abs(mixed["logprobs"][position][str(token)] - alone["logprobs"][position][str(token)])
        for name, batch in BATCHES.items()
        for row, mixed in zip(batch, answers["mixed"][name], strict=True)
        if (row[1] is None) == base
        for alone in [answers["alone"][row]]
        for position, token in enumerate(alone["tokens"])
        if mixed["tokens"][: position + 1] == alone["tokens"][: position + 1]
    ]
    assert len(moved) > 50
    assert sum(moved) / len(moved) < MEAN_TOLERANCE


def test_the_adapters_change_the_answers(answers: dict[str, Any]) -> None:
    """Else the test above would pass with operators that do nothing."""
    alone = answers["alone"]
    changed = {
        adapter
        for prompt, adapter in alone
        if adapter and (prompt, None) in alone and differences(alone[prompt, adapter], alone[prompt, None])
    }
    assert changed == set(ADAPTERS)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("matches no layer", "120 of the adapter's 120 modules match no layer"),
        ("partly matches", "4 of the adapter's 120 modules match no layer"),
        ("wrong shape", "maps 568 features to"),
        ("not finite", "values that are not finite"),
        ("half a pair", "needs lora_A and lora_B of one rank"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_with_the_reason(
    answers: dict[str, Any], name: str, reason: str
) -> None:
    assert reason in answers["refused"][name]


def test_the_engine_goes_on_after_a_refused_adapter(answers: dict[str, Any]) -> None:
    first = next(iter(answers["alone"].values()))
    assert len(answers["after"]) == len(first["tokens"])
