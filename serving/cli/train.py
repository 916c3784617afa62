"""`learnware-serving train`, `score`, `matrix` and `measure`: an adapter from rows, and what adapters are worth."""

import argparse
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serving.terminal import Progress, add_base_arguments
from serving.training.settings import TrainingSettings
from specs.errors import InvalidInput

DEFAULTS = TrainingSettings()


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
        description="Trains a LoRA adapter on JSONL rows {prompt, answer, choices}. Cut at any time and called again, "
        "it goes on.",
    )
    parser.add_argument("--rows", type=Path, required=True, help="JSONL file of training rows")
    parser.add_argument("--out", type=Path, required=True, help="folder of the adapter")
    add_base_arguments(parser)
    parser.add_argument("--rank", type=int, default=DEFAULTS.rank)
    parser.add_argument("--alpha", type=float, default=DEFAULTS.alpha)
    parser.add_argument(
        "--target-modules", default=",".join(DEFAULTS.target_modules), help="linear layers to adapt, comma-separated"
    )
    parser.add_argument(
        "--first-layer-share",
        type=float,
        default=DEFAULTS.first_layer_share,
        help="share of the depth left frozen below",
    )
    parser.add_argument("--learning-rate", type=float, default=DEFAULTS.learning_rate)
    parser.add_argument("--batch", type=int, default=DEFAULTS.batch, help="rows a step")
    parser.add_argument("--epochs", type=float, default=DEFAULTS.epochs, help="passes over the rows at most")
    parser.add_argument(
        "--patience", type=int, default=DEFAULTS.patience, help="evaluations without a better one before it stops"
    )
    parser.add_argument("--max-minutes", type=float, default=DEFAULTS.max_seconds / 60)
    parser.add_argument("--max-steps", type=int, default=None)
    parser.add_argument(
        "--max-length", type=int, default=DEFAULTS.max_length, help="tokens of a prompt; longer ones lose their middle"
    )
    parser.add_argument(
        "--shuffle-answers", action="store_true", help="the control: the same recipe on answers dealt out at random"
    )
    parser.add_argument(
        "--keep-rows",
        type=int,
        default=DEFAULTS.keep_rows,
        help="prompts off the task at which the adapter is held to the base model (default: %(default)s)",
    )
    parser.add_argument(
        "--no-keep", action="store_const", dest="keep_rows", const=0, help="the task alone; the same as --keep-rows 0"
    )
    parser.add_argument("--keep-batch", type=int, default=DEFAULTS.keep_batch, help="such prompts a step")
    parser.add_argument(
        "--keep-weight",
        type=float,
        default=DEFAULTS.keep_weight,
        help="what the divergence from the base counts beside the task's loss (default: %(default)s)",
    )
    parser.add_argument(
        "--from", type=Path, default=None, dest="start", metavar="ADAPTER", help="begin with this adapter's weights"
    )
    parser.add_argument("--evaluation-rows", type=int, default=DEFAULTS.evaluation_rows, help="held-out rows looked at")
    parser.add_argument("--seed", type=int, default=DEFAULTS.seed)
    parser.add_argument("--checkpoint-seconds", type=float, default=DEFAULTS.checkpoint_seconds)
    parser.set_defaults(run=run)


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
    with Progress(args.out.name) as bar:
        folder = train_adapter(rows, base, base_id, args.out, settings, bar.show, bar.say, cache, args.start)
    print(f"adapter written to {folder}")
    return 0


def settings_of(args: argparse.Namespace) -> TrainingSettings:
    """The settings that the options of `train` stand for. Raises InvalidInput, which names the wrong ones."""
    try:
        return TrainingSettings(
            rank=args.rank,
            alpha=args.alpha,
            target_modules=tuple(name.strip() for name in args.target_modules.split(",") if name.strip()),
            first_layer_share=args.first_layer_share,
            learning_rate=args.learning_rate,
            batch=args.batch,
            epochs=args.epochs,
            patience=args.patience,
            max_seconds=args.max_minutes * 60,
            max_steps=args.max_steps,
            max_length=args.max_length,
            shuffle_answers=args.shuffle_answers,
            evaluation_rows=args.evaluation_rows,
            keep_rows=args.keep_rows,
            keep_batch=args.keep_batch,
            keep_weight=args.keep_weight,
            seed=args.seed,
            device=args.device,
            checkpoint_seconds=args.checkpoint_seconds,
        )
    except ValidationError as error:
        options = {"max_seconds": "max-minutes"}
        faults = [(str(fault["loc"][0]), fault["msg"]) for fault in error.errors()]
        wrong = [f"--{options.get(name, name.replace('_', '-'))}: {message}" for name, message in faults]
        raise InvalidInput("; ".join(wrong)) from None
