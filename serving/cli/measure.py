"""`learnware-serving measure`: measures how learnwares change answers to requests off their task, and writes it into
their capability."""

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from serving.terminal import Progress, add_base_arguments
from specs.capability import capability_of, describe_off_task, save_capability
from specs.errors import InvalidInput
from specs.learnware import SPECIFICATION_FOLDER
from specs.off_task import PROMPTS, Kind, off_task_prompts
from specs.specification import DESCRIPTION_FILE, load_specification


def add_parser(subparsers: Any) -> None:
    """Adds `measure` to the command line."""
    parser = subparsers.add_parser(
        "measure",
        help="measure what learnwares do to requests that are not their task",
        description="Asks each learnware everyday prompts, free questions of its domain, and other things about the "
        "examples of its card, beside the base model: how much less likely it finds the base model's answers, and how "
        "many of its own are degenerate where the base model's are not. Written into specification/capability.json of "
        "each; what was measured on its tasks stays there.",
    )
    parser.add_argument("folders", type=Path, nargs="+", help="learnwares' folders (adapter, card, specification)")
    parser.add_argument("--dry-run", action="store_true", help="print the table and write nothing")
    for kind, count in PROMPTS.items():
        parser.add_argument(
            f"--{kind}", type=int, default=count, metavar="N", help=f"prompts of this kind at most (default: {count})"
        )
    add_base_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `measure`; returns the exit status."""
    import torch

    from serving.base_model import base_model_id, ensure_base_model
    from serving.paths import cache_folder
    from serving.training.drift import PROTOCOL, DriftMeter
    from specs.adapter import adapter_hash
    from specs.base_names import same_name
    from specs.card import CARD_FILE, load_card

    counts = {kind: getattr(args, kind) for kind in Kind}
    if min(counts.values()) < 0 or not any(counts.values()):
        raise InvalidInput("the numbers of prompts must not be negative, and one of them must be positive")
    torch.set_num_threads(args.threads)
    cards = {folder: load_card(folder / CARD_FILE) for folder in args.folders}
    cache = args.cache or cache_folder()
    base = ensure_base_model(args.base, cache, print)
    base_id = args.base_id or base_model_id(args.base)
    for folder, card in cards.items():
        if not same_name(card.base_model.id, base_id):
            raise InvalidInput(f"{folder}: it is an adapter for {card.base_model.id!r}; measured is {base_id!r}")
    meter = DriftMeter(base, cache, args.device)
    for folder, card in cards.items():
        prompts = off_task_prompts(card.domain, card.examples, counts)
        if not prompts:
            raise InvalidInput(f"{folder}: its card has no examples, so there is nothing to ask of the kinds chosen")
        total = sum(map(len, prompts.values()))
        with Progress(card.id, "prompt") as bar:
            _answer_first(meter, prompts, bar, total)
            started = time.monotonic()
            scores = meter.measure(folder, prompts, labels_of(folder), partial(_show, bar, total, "measured"))
            seconds = time.monotonic() - started
        place = folder / SPECIFICATION_FOLDER
        before = capability_of(place, base_id, adapter_hash(folder))
        measured = replace(before, elsewhere=scores, elsewhere_protocol=PROTOCOL)
        if not args.dry_run:
            save_capability(measured, place)
        print(f"{card.id} ({total} prompts in {seconds:.1f} s)")
        for line in describe_off_task(measured):
            print(f"  {line}")
    return 0


def labels_of(folder: Path) -> tuple[str, ...]:
    """Returns the labels with which a learnware answers its own task, as far as its specification names them."""
    place = folder / SPECIFICATION_FOLDER
    if not (place / DESCRIPTION_FILE).exists():
        return ()
    answers = load_specification(place).answers
    return () if answers is None else answers.labels


def _answer_first(meter: Any, prompts: Mapping[Kind, tuple[str, ...]], bar: Progress, total: int) -> None:
    """Makes the base model's answers that are not kept yet."""
    texts = [prompt for some in prompts.values() for prompt in some]
    meter.base_answers(texts, partial(_show, bar, total, "answered by the base model"))


def _show(bar: Progress, total: int, text: str, done: int) -> None:
    bar.show(done, total, text)
