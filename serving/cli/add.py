"""`learnware-serving learnware add`: from what people have to a served learnware.

The adapter is fetched into a folder of our own, gets a card and a specification there, and goes to whoever serves it:
the stack that runs (which tries it on its engine and measures it off its task), else the market's folder, else a folder
of the caller's.
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from serving.cli.card_options import add_card_arguments, changed_card, make_card
from serving.cli.delivery import Made, Target, deliver, find_target, known_version
from serving.cli.fetching import fetch_named
from specs.canary import read_share
from specs.card import CARD_FILE, BaseModelReference, Card, load_card, save_card
from specs.errors import DuplicateLearnware, InvalidInput

if TYPE_CHECKING:
    from specs.row_forms import FormedRow
    from specs.specification import Specification


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `add` to the subcommands of `learnware`."""
    parser = commands.add_parser(
        "add",
        help="take an adapter as it is, and serve it as a learnware",
        description="Takes a LoRA adapter from a folder, a zip, hf://owner/name@revision, s3://…, gs://… or "
        "https://….zip, writes the card and the specification that it has not, and gives it to the running stack, "
        "which tries it and serves it. With --rows or --examples, requests for `auto` find it; with neither only "
        "requests that name it do. Rows stay here: the specification holds points, no text.",
    )
    parser.add_argument("source", help="a folder, a zip, hf://owner/name[@revision], s3://…, gs://…, or https://….zip")
    parser.add_argument(
        "--rows",
        type=Path,
        help="rows of its task, from which its specification is made: JSON lines, JSON, CSV, TSV or Parquet with "
        "`prompt` and `answer`, `messages`, `conversations`, `instruction` and `output`, or `question` and `answer`",
    )
    parser.add_argument(
        "--examples",
        nargs="+",
        default=(),
        metavar="TEXT",
        help="requests in your own words, or a file of them; they stand in the card, which everybody may read",
    )
    parser.add_argument(
        "--publish-examples",
        type=int,
        default=0,
        metavar="N",
        help="put the prompts of N rows into the card as its examples; everybody may read them (default: 0)",
    )
    parser.add_argument("--card", type=Path, help="a card to use instead of the source's own")
    add_card_arguments(parser)
    parser.add_argument("--points", type=int, help="reduced points of each view of the specification (default: 50)")
    served = parser.add_mutually_exclusive_group()
    served.add_argument("--replace", action="store_true", help="replace the learnware that is served under its id")
    served.add_argument(
        "--canary",
        metavar="SHARE",
        help="give it this share of the requests of the learnware that is served under its id, such as 5%%, as a new "
        "version that is promoted or rolled back later",
    )
    parser.add_argument(
        "--convert-pickle",
        action="store_true",
        help="weights in a pickle format, which can run code when read, are converted in a process of their own",
    )
    place = parser.add_argument_group("where it goes (default: the stack that runs here, else the configured market)")
    place.add_argument("--config", type=Path, help="the stack's YAML file (default: the default configuration)")
    one = place.add_mutually_exclusive_group()
    one.add_argument("--url", help="a running stack, such as http://127.0.0.1:8000")
    one.add_argument("--market", type=Path, help="a market's folder, beside a stack or without one")
    one.add_argument("--out", type=Path, help="a new folder, for `market submit` or `learnwares.folder`")
    one.add_argument("--dry-run", action="store_true", help="check everything and change nothing")
    place.add_argument("--key", help="the stack's admin key (default: LEARNWARE_ADMIN_KEY, else that of the run here)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs `learnware add`; returns the exit status."""
    from serving.config import load_config

    config = load_config(options.config)
    if options.out is not None and options.out.exists() and any(options.out.iterdir()):
        raise InvalidInput(f"{options.out} is not empty; give --out a new folder")
    share = None if options.canary is None else read_share(options.canary)
    if share is not None and options.out is not None:
        raise InvalidInput("a canary is served beside its learnware: give --canary without --out")
    with ExitStack() as stack:
        target = find_target(options, config, stack)
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="learnware-add-")))
        made = _make(options, target, place)
        deliver(options, config, target, made._replace(share=share), place)
    return 0


def _make(options: argparse.Namespace, target: Target, place: Path) -> Made:
    """Fetches the adapter and gives it a card and, where that can be made, a specification."""
    from specs.learnware import SPECIFICATION_FOLDER
    from specs.row_forms import read_formed_rows
    from specs.specification import DESCRIPTION_FILE
    from specs.specification_from_rows import ROW_LIMIT

    rows = [] if options.rows is None else read_formed_rows(options.rows, ROW_LIMIT)
    examples = _examples(options)
    fetched = fetch_named(options.source, place, convert_pickle=options.convert_pickle)
    folder = fetched.folder
    card = _card(options, fetched.name, folder, target)
    if not examples and options.publish_examples > 0:
        examples = _published(rows, options.publish_examples)
    if examples:
        card = card.model_copy(update={"examples": tuple(examples)})
    card = _with_version(card, options, target)
    save_card(card, folder / CARD_FILE)
    kept = folder / SPECIFICATION_FOLDER
    if rows or examples or (card.examples and not (kept / DESCRIPTION_FILE).is_file()):
        _specify(rows, card, options.points, kept)
    return Made(folder, card, rows, (kept / DESCRIPTION_FILE).is_file())


def _examples(options: argparse.Namespace) -> list[str]:
    """Returns the requests that were given, or those of the one file that was."""
    from specs.task import read_rows

    given = list(options.examples)
    if len(given) == 1 and len(given[0]) < 1024 and Path(given[0]).is_file():
        return read_rows(Path(given[0]))
    if any(not text.strip() for text in given):
        raise InvalidInput("an example of --examples is empty; each is a request in words")
    return given


def _card(options: argparse.Namespace, source_name: str, folder: Path, target: Target) -> Card:
    if options.card is None and not (folder / CARD_FILE).is_file():
        return make_card(options, source_name, folder, BaseModelReference(id=target.base))
    return changed_card(load_card(options.card or folder / CARD_FILE), options)


def _published(rows: "Sequence[FormedRow]", count: int) -> list[str]:
    """Returns the prompts of `count` rows, spread evenly."""
    from specs.routed_rows import routed_rows

    prompts = list(dict.fromkeys(row.prompt for row in routed_rows(rows)))
    count = min(count, len(prompts))
    return [prompts[number * len(prompts) // count] for number in range(count)]


def _with_version(card: Card, options: argparse.Namespace, target: Target) -> Card:
    """Returns the card with a version above all that its id had, where no option says which.

    Raises:
        DuplicateLearnware: the id is served, and neither --replace nor --canary is given.
        InvalidInput: it is not served, and --canary is given.
    """
    found = known_version(card.id, target)
    if options.canary and not options.dry_run and (found is None or not found[1]):
        raise InvalidInput(f"no learnware {card.id!r} is served that a canary could be compared with: omit --canary")
    if found is None:
        return card
    version, active = found
    if active and not options.replace and not options.canary:
        raise DuplicateLearnware(
            f"learnware {card.id!r} is served already, in version {version}: give --replace to replace it, --canary 5% "
            "to give it some of its requests at first, or another --id"
        )
    return card if options.version or card.version > version else card.model_copy(update={"version": version + 1})


def _specify(rows: "Sequence[FormedRow]", card: Card, points: int | None, folder: Path) -> None:
    from specs.specification import POINTS_PER_VIEW, save_specification
    from specs.specification_from_rows import specification_from_rows

    specification = specification_from_rows(rows, card.examples, points or POINTS_PER_VIEW)
    save_specification(specification, folder)
    print(f"{card.id}: {_described(specification, len(rows), len(card.examples))}")
    if rows and not card.examples:
        print(
            "No row's text is published. Requests in other words than the rows' find it better with some --examples in "
            "your own; with these, or --publish-examples 5, what it does to other requests is measured better, too."
        )


def _described(specification: "Specification", rows: int, examples: int) -> str:
    points = sum(len(view.points) for view in specification.views)
    answers = "not known" if specification.answers is None else str(specification.answers)
    return f"a specification of {points} points from {rows} rows and {examples} examples; answers: {answers}"
