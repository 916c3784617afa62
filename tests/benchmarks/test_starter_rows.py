"""The rows of the starters that answer in sentences: those that they were trained on, and what is not among them."""

import json

import pytest

from benchmarks.common.tasks import STARTER_LEARNWARES, data_folder, task_of
from benchmarks.starter_rows import (
    HELD_OUT_SHARE,
    INSTRUCTION,
    POINTERS,
    SEED,
    STARTERS,
    Row,
    reworded,
    starter_rows,
)
from serving.training.rows import Row as TrainingRow, hold_out, read_rows, rows_hash
from serving.training.settings import TrainingSettings

DATA = data_folder()


@pytest.mark.skipif(DATA is None, reason="the tasks' folder is not here ($LEARNWARE_DATA)")
@pytest.mark.parametrize("starter", STARTERS)
def test_the_rows_are_those_that_the_shipped_adapter_was_trained_on(starter: str) -> None:
    rows = [TrainingRow(*row) for row in starter_rows(starter, DATA)]
    record = json.loads((STARTER_LEARNWARES / starter / "training.json").read_text())
    assert rows_hash(rows) == record["rows_sha256"]
    test = read_rows(DATA / f"{task_of(starter)}.test.jsonl")
    assert not {row.answer for row in rows} & {row.answer for row in test}
    assert not any(pointer in row.answer for row in rows for pointer in POINTERS[:1])


def test_rewording_changes_no_row_that_is_held_out_and_no_answer() -> None:
    rows = [Row(f"{INSTRUCTION}Fees Received, Part {i}", f"Fees number {i}.") for i in range(200)]
    rows.append(Row(f"{INSTRUCTION}LIFO Reserve", "A reserve."))
    changed = reworded(rows)
    training = TrainingSettings()
    assert (training.held_out_share, training.seed) == (HELD_OUT_SHARE, SEED)
    held, still = (hold_out([TrainingRow(*row) for row in some], HELD_OUT_SHARE, SEED)[1] for some in (rows, changed))
    assert still == held
    assert [row.answer for row in changed] == [row.answer for row in rows]
    assert all(changed[i] == rows[i] for i in held)
    new = [i for i, row in enumerate(changed) if row != rows[i]]
    assert 0.35 * len(rows) < len(new) < 0.65 * len(rows)
    assert all(f"part {i}" in changed[i].prompt.lower() for i in new if i < 200)
    assert not any("lifo" in row.prompt for row in changed)
    assert reworded(rows) == changed
