"""Makes the rows on which the starters that answer in sentences were trained, from the public tasks.

    python -m benchmarks.starter_rows --out FOLDER [--data FOLDER]

Writes <learnware>.jsonl for each. Left out are rows whose answer also stands in the task's test rows, and answers that
only point elsewhere (to a table, to links). About half of the prompts of `finance-xbrl_term` are reworded as users ask:
each row there has the same instruction, which a learnware otherwise takes for a part of the question. Rows that
training holds out keep their wording, and no other row takes their place.
"""

import argparse
import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.common.tasks import add_data_option, task_of
from specs.errors import InvalidInput

STARTERS = ("finance-xbrl_term", "healthcare-medquad_qa", "mathematics-gsm8k_solution")
POINTERS = ("If the information is available, the table below", "These resources address")
"""Sentences in MedQuAD's answers that point to a table or to links which are not there; a fifth of its answers hold
one."""
INSTRUCTION = "Explain in one sentence what this line of a financial statement means: "
WORDINGS = (
    "What is {x}?",
    'What does "{x}" mean on a balance sheet?',
    "what does {y} mean",
    "Explain {y}.",
    'Define "{x}".',
    "what is {y} in accounting",
    "Can you explain the term {y}?",
    "What is meant by {x} in an annual report?",
    "meaning of {y}",
    'In a 10-K I saw the line "{x}". What is it?',
    "Please explain what {y} is.",
    "{x}: what is this item about?",
    "definition of {y}",
)
"""Ways to ask for a term: `{x}` stands for the term as it is, `{y}` for the term in lower case, unless it has
abbreviations."""
REWORDED = 0.55
HELD_OUT_SHARE, SEED = 0.12, 0
"""Share and seed with which `learnware-serving train` holds out the rows whose prompts have the smallest hashes."""


class Row(NamedTuple):
    """One example of a task that is answered in sentences."""

    prompt: str
    answer: str


def starter_rows(starter: str, data: Path) -> list[Row]:
    """Returns the training rows of one of `STARTERS`. Raises InvalidInput when the task is not in `data`."""
    train, test = (_read(data / f"{task_of(starter)}.{split}.jsonl") for split in ("train", "test"))
    tested = {row.answer for row in test}
    rows = [row for row in train if row.answer not in tested]
    if starter == "healthcare-medquad_qa":
        rows = [row for row in rows if POINTERS[0] not in row.answer and not row.answer.startswith(POINTERS[1])]
    return reworded(rows) if starter == "finance-xbrl_term" else rows


def reworded(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with `INSTRUCTION` in other words, in a share `REWORDED` of those that are trained on. A new
    prompt's hash puts it behind the rows that are held out, so these stay the same."""
    ranks = sorted(_rank(row.prompt) for row in rows)
    last_held_out = ranks[max(1, round(len(rows) * HELD_OUT_SHARE)) - 1]
    generator = random.Random(SEED)
    changed = list(rows)
    for number, row in enumerate(rows):
        if _rank(row.prompt) > last_held_out and generator.random() < REWORDED:
            prompts = _wordings(row.prompt.removeprefix(INSTRUCTION).strip().rstrip("."), generator)
            later = (prompt for prompt in prompts if _rank(prompt) > last_held_out)
            changed[number] = row._replace(prompt=next(later, row.prompt))
    return changed


def _wordings(term: str, generator: random.Random) -> list[str]:
    """Returns all ways to ask for a term, in random order."""
    has_abbreviation = any(word.isupper() and len(word) > 1 for word in term.split())
    small = term if has_abbreviation else term.lower()
    return [wording.format(x=term, y=small) for wording in generator.sample(WORDINGS, len(WORDINGS))]


def _rank(prompt: str) -> bytes:
    return hashlib.sha256(f"{SEED}\n{prompt}".encode()).digest()


def _read(path: Path) -> list[Row]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InvalidInput(f"cannot read the task's rows: {error}") from error
    return [Row(item["prompt"], item["answer"]) for item in map(json.loads, lines)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for the rows")
    options = parser.parse_args(arguments)
    if options.data is None:
        raise InvalidInput("where are the tasks? give --data, or set LEARNWARE_DATA")
    options.out.mkdir(parents=True, exist_ok=True)
    for starter in STARTERS:
        rows = starter_rows(starter, options.data)
        lines = [json.dumps(row._asdict(), ensure_ascii=False) for row in rows]
        (options.out / f"{starter}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{starter}: {len(rows)} rows")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
