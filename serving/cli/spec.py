"""`learnware-serving spec …`: makes a task's or a learnware's specification from its rows, on this machine."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from specs.errors import InvalidInput

if TYPE_CHECKING:
    from specs.task import TaskSpecification


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    """Adds `spec` with its subcommands to the project's command line; returns the object to which further subcommands
    are added."""
    spec = subparsers.add_parser("spec", help="make and inspect specifications of tasks and learnwares")
    commands = spec.add_subparsers(required=True, metavar="COMMAND")

    task = commands.add_parser(
        "make",
        help="write the specification of a task from its rows, to be uploaded in their place",
        description="Reads rows (JSON lines, CSV, Parquet … with a `prompt` or another known form, or texts in a .txt "
        "file; no answers needed) and writes a specification for POST /v1/task-specs: the mean of the rows' vectors "
        "with noise. Rows stay here. Each specification made from the same rows tells more about them: make one, and "
        "keep it.",
    )
    task.add_argument("rows", type=Path, help="the task's rows")
    task.add_argument("-o", "--output", type=Path, required=True, help="the file to write")
    task.add_argument(
        "--mu",
        type=float,
        help="privacy of a row: μ of Gaussian differential privacy; smaller is more private (default: 1)",
    )
    task.set_defaults(run=_make_task)

    make = commands.add_parser(
        "make-learnware",
        help="write learnware.yaml and specification/ into a folder that holds an adapter",
        description="Reads rows and a card, and writes the card and the specification into the learnware's folder. "
        "Rows stay here: a specification holds points in the encoder's space, no text.",
    )
    make.add_argument("folder", type=Path, help="the learnware's folder")
    make.add_argument(
        "--rows",
        type=Path,
        required=True,
        help="training rows: JSON lines, JSON, CSV, TSV or Parquet, with a `prompt` or another known form, such as "
        "`messages`; `answer` and `choices`, where they have them, tell what the answers are",
    )
    make.add_argument("--card", type=Path, help="the card to write (default: learnware.yaml of the folder, as it is)")
    make.add_argument("--points", type=int, help="reduced points of each view (default: 50)")
    make.set_defaults(run=_make)

    show = commands.add_parser("show", help="check a specification and say what it holds")
    show.add_argument("path", type=Path, help="a learnware's folder, or the file of a task's specification or vector")
    show.set_defaults(run=_show)
    return commands


def _make(options: argparse.Namespace) -> int:
    from specs.card import CARD_FILE, load_card, save_card
    from specs.learnware import SPECIFICATION_FOLDER
    from specs.row_forms import read_formed_rows
    from specs.specification import POINTS_PER_VIEW, save_specification
    from specs.specification_from_rows import ROW_LIMIT, specification_from_rows

    folder: Path = options.folder
    card = load_card(options.card or folder / CARD_FILE)
    rows = read_formed_rows(options.rows, ROW_LIMIT)
    specification = specification_from_rows(rows, card.examples, options.points or POINTS_PER_VIEW)
    save_specification(specification, folder / SPECIFICATION_FOLDER)
    save_card(card, folder / CARD_FILE)
    points = sum(len(view.points) for view in specification.views)
    print(f"{card.id}: {points} points from {len(rows)} rows and {len(card.examples)} examples, in {folder}")
    if specification.answers is None:
        print("Some rows have no answer, so the specification does not say what the answers are.")
    else:
        print(f"answers: {specification.answers}")
    return 0


def _make_task(options: argparse.Namespace) -> int:
    from tqdm import tqdm  # type: ignore[import-untyped]

    from specs.encoding.encoder import load_prompt_encoder
    from specs.task import DEFAULT_MU, dump_task_specification, make_task_specification, read_rows

    rows = read_rows(options.rows)
    mu = DEFAULT_MU if options.mu is None else options.mu
    with tqdm(total=len(rows), unit="row", leave=False, disable=None) as bar:
        made = make_task_specification(rows, load_prompt_encoder(), mu, progress=bar.update)
    try:
        options.output.write_bytes(dump_task_specification(made))
    except OSError as error:
        raise InvalidInput(f"{options.output} cannot be written: {error.strerror}") from None
    _describe_task(made, options.output)
    return 0


def _describe_task(specification: "TaskSpecification", path: Path) -> None:
    from specs.task import largest_auc, task_id

    print(f"{path}: {task_id(specification)}, from {specification.rows} rows")
    print(
        f"noise {specification.noise:.4g} in each of {len(specification.mean)} coordinates, mu {specification.mu:.3g}: "
        f"no test for one row's membership has an AUC above {largest_auc(specification.mu):.2f}"
    )
    if specification.blurred:
        print(
            f"so much noise may hide what the task is; the base model then answers. {specification.clear_rows:,} rows "
            "would be enough at this mu."
        )


def _show(options: argparse.Namespace) -> int:
    from specs.learnware import load_learnware
    from specs.pave import is_vector, read_vector
    from specs.specification_types import PARAMETER_VECTOR, specifications_of
    from specs.task import MAX_BYTES, load_task_specification

    if options.path.is_file():
        if is_vector(options.path):
            vector = read_vector(options.path)
            print(f"{options.path}: {PARAMETER_VECTOR.type}, {PARAMETER_VECTOR.describe(vector)}")
            return 0
        with options.path.open("rb") as file:
            _describe_task(load_task_specification(file.read(MAX_BYTES + 1)), options.path)
        return 0
    learnware = load_learnware(options.path)
    print(f"{learnware.id}, version {learnware.version}: {learnware.name}")
    print(f"{learnware.domain}; rank {learnware.rank} on {learnware.base_model}; {learnware.licence}")
    for kind, value in specifications_of(options.path, learnware.base_model):
        print(f"{kind.type}: {kind.describe(value)}")
    return 0
