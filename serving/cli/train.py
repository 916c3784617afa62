"""`learnware-serving train`, `score`, `matrix` and `measure`: an adapter from rows, and what adapters are worth."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from serving.cli.card_options import add_card_arguments, changed_card, make_card
from serving.terminal import Progress, add_base_arguments
from serving.training.settings import TrainingSettings
from specs.card import CARD_FILE, BaseModelReference, Card, load_card, save_card
from specs.errors import InvalidInput

OPTIONS = {name: field for name, field in TrainingSettings.model_fields.items() if field.description}


def add_parser(subparsers: Any) -> None:
    """Adds `train`, `score`, `matrix` and `measure` to the command line."""
    from serving.cli.matrix import add_parser as add_matrix_parser
    from serving.cli.measure import add_parser as add_measure_parser
    from serving.cli.score import add_parser as add_score_parser

    add_score_parser(subparsers)
    add_matrix_parser(subparsers)
    add_measure_parser(subparsers)
    parser = subparsers.add_parser(
        "train",
        help="train an adapter for the base model from rows of a task",
        description="Trains a LoRA adapter on rows and writes it with a card, ready for `learnware add`. Cut at any "
        "time and called again, it goes on.",
    )
    parser.add_argument(
        "--rows",
        type=Path,
        required=True,
        help="training rows: JSON lines, JSON, CSV, TSV or Parquet with `prompt` and `answer` (and `choices`, if it is "
        "one of a few), `messages`, `conversations`, `instruction` and `output`, or `question` and `answer`",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the adapter")
    add_base_arguments(parser)
    parser.add_argument(
        "--from", type=Path, default=None, dest="start", metavar="ADAPTER", help="begin with this adapter's weights"
    )
    for name, field in OPTIONS.items():
        _add_option(parser, name, field)
    parser.add_argument(
        "--no-keep", action="store_const", dest="keep_rows", const=0, help="the task alone; the same as --keep-rows 0"
    )
    minutes = TrainingSettings.model_fields["max_seconds"].default / 60
    parser.add_argument("--max-minutes", type=float, help=f"time of training at most (default: {minutes:g})")
    add_card_arguments(parser)
    parser.set_defaults(run=run)


def _add_option(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    """One setting as an option. Its value is None where it is not given, so that the default is the setting's own."""
    option, description, default = "--" + name.replace("_", "-"), str(field.description), field.default
    if isinstance(default, bool):
        parser.add_argument(option, action="store_true", default=None, help=description)
        return
    if isinstance(default, tuple):
        parser.add_argument(option, type=_names, help=f"{description} (default: {','.join(default)})")
        return
    shown = "none" if default is None else default
    number = float if isinstance(default, float) else int
    parser.add_argument(option, type=number, help=f"{description} (default: {shown})")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def run(args: argparse.Namespace) -> int:
    """Runs `train`; returns the exit status."""
    import torch

    from serving.base_model import base_model_id, ensure_base_model
    from serving.paths import cache_folder
    from serving.training.adapter import train_adapter
    from serving.training.rows import read_rows

    torch.set_num_threads(args.threads)
    settings = settings_of(args)
    rows = read_rows(args.rows)
    cache = args.cache or cache_folder()
    base = ensure_base_model(args.base, cache, print)
    base_id = args.base_id or base_model_id(args.base)
    card = card_for(args, base_id, f"{len(rows)} rows, rank {settings.rank}")  # what is wrong there is said at once
    with Progress(args.out.name) as bar:
        folder = train_adapter(rows, base, base_id, args.out, settings, bar.show, bar.say, cache, args.start)
    print(f"adapter written to {folder}")
    if settings.shuffle_answers:  # a control, which nobody serves
        return 0
    save_card(card, folder / CARD_FILE)
    rows_path, out = shlex.quote(str(args.rows)), shlex.quote(str(args.out))
    print(f"next: learnware-serving learnware add {out} --rows {rows_path}    # serves it")
    return 0


def card_for(args: argparse.Namespace, base_id: str, training: str) -> Card:
    """Returns the card of the adapter that is trained: what options say, over the card that is in its folder already or
    over defaults. Raises InvalidInput, which names the options that a card cannot have."""
    path = args.out / CARD_FILE
    if path.is_file():
        return changed_card(load_card(path), args)
    base, name = BaseModelReference(id=base_id), args.out.resolve().name
    return make_card(args, name, args.out, base, lambda _, default: default).model_copy(update={"training": training})


def settings_of(args: argparse.Namespace) -> TrainingSettings:
    """The settings that the options of `train` stand for. Raises InvalidInput, which names the wrong ones."""
    given = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    if args.max_minutes is not None:
        given["max_seconds"] = args.max_minutes * 60
    try:
        return TrainingSettings(device=args.device, **given)
    except ValidationError as error:
        options = {"max_seconds": "max-minutes"}
        faults = [(str(fault["loc"][0]), fault["msg"]) for fault in error.errors()]
        wrong = [f"--{options.get(name, name.replace('_', '-'))}: {message}" for name, message in faults]
        raise InvalidInput("; ".join(wrong)) from None
