"""`learnware-serving learnware …`: adds an adapter as a served learnware, and imports and exports zip files of the
`learnware` package 0.4.0.post1."""

import argparse
from pathlib import Path

from serving.cli.add import add_parser as add_add_parser


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `learnware` with its subcommands to the project's command line."""
    learnware = subparsers.add_parser(
        "learnware", help="add an adapter, or import and export zips of the `learnware` package"
    )
    commands = learnware.add_subparsers(required=True, metavar="COMMAND")
    add_add_parser(commands)

    export = commands.add_parser(
        "export",
        help="write a learnware's folder as a zip of the `learnware` package",
        description="The zip holds the adapter, the specification as RKMETextSpecification, a model class for the "
        "package, and what an import here needs to lose nothing.",
    )
    export.add_argument("folder", type=Path, help="the learnware's folder")
    export.add_argument("-o", "--output", type=Path, required=True, help="the zip to write")
    export.add_argument(
        "--base", help="where the exported model finds its base model: a hub id or a folder (default: the card's id)"
    )
    export.add_argument(
        "--needs",
        action="append",
        default=[],
        metavar="ID",
        help="the package's learnware that holds the base model; makes it a `PEFT Model` there",
    )
    export.set_defaults(run=_export)

    take = commands.add_parser(
        "import",
        help="write a zip of the `learnware` package as a learnware's folder, for `market submit`",
        description="Runs nothing of the zip. A specification that the package made is kept, but lies in the space of "
        "its own encoder: to be chosen here, the learnware needs some rows of its task.",
    )
    take.add_argument("zip", type=Path, help="the package's zip")
    take.add_argument("folder", type=Path, help="the learnware's folder, new or empty")
    take.add_argument(
        "--rows", type=Path, help="rows of its task, in a form that `learnware add` reads, or a .txt file"
    )
    take.add_argument("--card", type=Path, help="the card to use instead of what the zip says")
    take.add_argument("--id", help="the learnware's id here")
    take.set_defaults(run=_import)


def _export(options: argparse.Namespace) -> int:
    from specs.learnware_package.convert import export_learnware

    card = export_learnware(options.folder, options.output, options.base, options.needs)
    print(f"{card.id}, version {card.version}, is in {options.output}")
    return 0


def _import(options: argparse.Namespace) -> int:
    from specs.card import load_card
    from specs.learnware_package.convert import import_learnware
    from specs.task import read_rows

    card = None if options.card is None else load_card(options.card)
    rows = [] if options.rows is None else read_rows(options.rows)
    learnware = import_learnware(options.zip, options.folder, card, rows, options.id)
    points = len(learnware.specified.whole_set.points)
    print(f"{learnware.id}, for {learnware.base_model}, with {points} points, is in {options.folder}")
    return 0
