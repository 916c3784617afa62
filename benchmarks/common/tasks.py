"""Reads the tasks' rows and the project's questions for the selection benchmarks."""

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from specs.compositions import bare_prompt
from specs.errors import InvalidInput

REPOSITORY = Path(__file__).parents[2]
STARTER_LEARNWARES = REPOSITORY / "serving" / "starter_learnwares"
QUESTIONS = Path(__file__).parents[1] / "questions"
DOMAINS = ("finance", "healthcare", "mathematics")
CHAT = "general/general_chat"
OTHER_CHOICES = ("general/arc_easy", "general/commonsenseqa")


class Prompts(NamedTuple):
    """The prompts of one task in one split, as they are and without their instruction line and answer cue."""

    whole: list[str]
    bare: list[str]


def add_data_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        default=data_folder(),
        help="folder of <domain>/<task>.{train,test}.jsonl (default: $LEARNWARE_DATA, or ../shared/data/tasks)",
    )
    parser.add_argument(
        "--learnwares", type=Path, default=STARTER_LEARNWARES, help="learnwares (default: the starter learnwares)"
    )


def data_folder() -> Path | None:
    """Returns $LEARNWARE_DATA, else the sibling folder that a checkout may have, else None."""
    if given := os.environ.get("LEARNWARE_DATA"):
        return Path(given)
    sibling = REPOSITORY.parent / "shared" / "data" / "tasks"
    return sibling if sibling.is_dir() else None


def task_of(learnware_id: str) -> str:
    """Returns the task of a starter's id: `finance/tfns` for `finance-tfns`."""
    return learnware_id.replace("-", "/", 1)


def read_prompts(data: Path, task: str, split: str, limit: int | None = None) -> Prompts:
    """Returns the prompts of the first `limit` rows of a split.

    Raises:
        InvalidInput: the file is not there.
    """
    path = data / f"{task}.{split}.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[:limit]
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}; --data must hold <domain>/<task>.{split}.jsonl") from None
    whole = [json.loads(line)["prompt"] for line in lines]
    return Prompts(whole, [bare_prompt(prompt) for prompt in whole])


def read_questions(name: str) -> list[str]:
    """Returns the project's free-form questions of a domain, or of `general`; the file has one a line, with a literal
    \\n for a line break."""
    lines = (QUESTIONS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.replace("\\n", "\n") for line in lines if line]


def chat_domain(prompt: str) -> str | None:
    """Returns the domain whose question a row of `general_chat` asks, or None for everyday work.

    `questions/general_chat_domains.json` names such rows by the first 16 hexadecimal digits of their prompt's SHA-256.
    One reader judged all 1,276 rows of both splits, without a model's scores: long rows by their beginning and end,
    90 doubtful ones whole. Labelled are exercises, calculations and asks about mathematical material; money, markets,
    accounting and economics; health, medicine, nutrition, fitness and stress. Logic puzzles, Fermi estimates, code,
    biology, business plans and recipes stay everyday work.
    """
    return _chat_domains().get(hashlib.sha256(prompt.encode()).hexdigest()[:16])


@cache
def _chat_domains() -> dict[str, str]:
    return dict(json.loads((QUESTIONS / "general_chat_domains.json").read_text(encoding="utf-8")))


def read_questions_of(names: Sequence[str]) -> dict[str, list[str]]:
    return {name: read_questions(name) for name in names}
