"""`learnware-serving market …`: the market from the command line, beside a running stack or without one.

Changes reach a running stack within a second. A learnware is checked here, but not tried on an engine, as it is over
HTTP (`POST /v1/learnwares`): replicas leave one out whose adapter the engine refuses, and its effect off its task is
what its own capability says (`learnware-serving measure` writes it).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from specs.market.journal import Record
    from specs.market.staged import Staged
from specs.market.store import Market

UNTRIED = ("it was submitted from the command line, so no engine has tried what it answers",)
"""The note on a learnware that is taken in here."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `market` with its subcommands to the project's command line."""
    market = subparsers.add_parser("market", help="submit, find, replace and remove learnwares")
    commands = market.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=summary, description=summary)
        parser.add_argument("--config", type=Path, help="the stack's YAML file: says where the market is and its base")
        parser.add_argument("--market", type=Path, help="the market's folder (over the configuration's market.path)")
        parser.set_defaults(run=run)
        return parser

    submit = command("submit", _submit, "check a learnware and serve it under its id")
    submit.add_argument("source", help="a folder, a zip file, or a hub id (owner/name)")
    replace = command("replace", _replace, "check a new version of a learnware and serve it instead of the old one")
    replace.add_argument("source", help="a folder, a zip file, or a hub id (owner/name)")
    listing = command("list", _list, "list the learnwares that are served")
    listing.add_argument("--all", action="store_true", help="also what was replaced, removed or quarantined")
    listing.add_argument("--quarantined", action="store_true", help="what is in quarantine instead, with the reasons")
    show = command("show", _show, "say everything about one learnware, as JSON")
    show.add_argument("id")
    search = command("search", _search, "find learnwares by words in their name, tags and description")
    search.add_argument("text", nargs="*", help="words that must all be there")
    for option in ("domain", "task", "language"):
        search.add_argument(f"--{option}")
    remove = command("remove", _remove, "serve a learnware no more")
    remove.add_argument("id")
    quarantine = command("quarantine", _quarantine, "serve a learnware no more, and keep it with the reason")
    quarantine.add_argument("id")
    quarantine.add_argument("--reason", required=True)
    check = command("check", _check, "check a learnware without submitting it, or the market itself")
    check.add_argument(
        "source", nargs="?", help="a folder, a zip file, or a hub id; without it: the market's integrity"
    )


def _submit(options: argparse.Namespace) -> int:
    market = _open(options)
    with _Bar(options.source) as bar, market.stage(options.source, progress=bar.bytes) as staged:
        record = market.submit(staged._replace(notes=UNTRIED))
        _say_unmeasured(staged)
    print(f"{record.id}, version {record.version}, is served from now on")
    return 0


def _replace(options: argparse.Namespace) -> int:
    market = _open(options)
    with _Bar(options.source) as bar, market.stage(options.source, progress=bar.bytes) as staged:
        record = market.replace(staged._replace(notes=UNTRIED))
        _say_unmeasured(staged)
    print(f"{record.id} is served in version {record.version} from now on")
    return 0


def _say_unmeasured(staged: "Staged") -> None:
    """Warns on stderr when a learnware has no measurement off its task."""
    capability = staged.learnware.capability
    if capability is None or not capability.elsewhere:
        print(
            f"{staged.learnware.id} was not measured off its task, so the router assumes the worst there; run "
            "`learnware-serving measure` on its folder, or submit it over HTTP",
            file=sys.stderr,
        )


def _list(options: argparse.Namespace) -> int:
    from specs.market.journal import State

    state = None if options.all else State.QUARANTINED if options.quarantined else State.ACTIVE
    _print(_open(options).records(state))
    return 0


def _show(options: argparse.Namespace) -> int:
    from serving.applications.market_record import describe_whole

    market = _open(options)
    record = market.show(options.id)
    folder = market.folder(record)
    print(
        json.dumps(
            describe_whole(market, record) | {"folder": str(folder) if folder else None}, indent=1, ensure_ascii=False
        )
    )
    return 0


def _search(options: argparse.Namespace) -> int:
    found = _open(options).search(
        " ".join(options.text), domain=options.domain, task=options.task, language=options.language
    )
    _print(found)
    return 0 if found else 1


def _remove(options: argparse.Namespace) -> int:
    record = _open(options).remove(options.id)
    print(f"{record.id}, version {record.version}, is served no more")
    return 0


def _quarantine(options: argparse.Namespace) -> int:
    record = _open(options).quarantine(options.id, options.reason)
    print(f"{record.id}, version {record.version}, is in quarantine: {record.reason}")
    return 0


def _check(options: argparse.Namespace) -> int:
    market = _open(options)
    if options.source is not None:
        with _Bar(options.source) as bar, market.stage(options.source, progress=bar.bytes, record=False) as staged:
            print(
                f"{staged.learnware.id}, version {staged.learnware.version}: every check passed that needs no engine; "
                "what it answers is tried when it is submitted over HTTP"
            )
        return 0
    from tqdm import tqdm  # type: ignore[import-untyped]

    with tqdm(total=len(market.records()), unit="learnware", leave=False, disable=None) as bar:
        problems = market.check_integrity(lambda _: bar.update())
    for problem in problems:
        print(problem)
    print(f"{len(market.records())} learnwares, {len(problems)} problems")
    return 1 if problems else 0


def _open(options: argparse.Namespace) -> "Market":
    from serving.base_model import ensure_base_model
    from serving.config import load_config
    from serving.launch.market_setup import market_folder
    from serving.paths import cache_folder
    from serving.requirements import market_requirements
    from specs.errors import InvalidInput
    from specs.market.store import Market

    config = load_config(options.config)
    folder = options.market or market_folder(config)
    if options.market is None and config.market.folder is None and not folder.is_dir():
        raise InvalidInput(
            f"no market: market.path is not set, and no stack runs on port {config.http.port}; give --market FOLDER"
        )
    base = ensure_base_model(
        config.base_model.source,
        cache_folder(),
        lambda text: print(text, file=sys.stderr),
        config.base_model.revision,
    )
    return Market(folder, market_requirements(config, base))


def _print(records: "list[Record]") -> None:
    for record in records:
        card = record.card
        tags = f"{card.domain}: {', '.join(card.tasks)}  {card.name}" if card else ""
        print(f"{record.id}  version {record.version}  {record.state}  {tags or record.reason or ''}".rstrip())
        if card and record.reason:
            print(f"    {record.reason}")
        for note in record.notes:
            print(f"    note: {note}")


class _Bar:
    """A bar of the bytes taken in, shown on a terminal only and removed when done."""

    def __init__(self, source: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(desc=Path(source).name, unit="B", unit_scale=True, leave=False, disable=None)

    def bytes(self, count: int) -> None:
        """Moves the bar on by `count` bytes."""
        self._bar.update(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
