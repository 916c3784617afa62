"""`learnware-serving market …`: the market from the command line, beside a running stack or without one.

Changes reach a running stack within a second, and a command ends once every router and engine replica has followed. A
learnware is checked here, but not tried on an engine, as it is over HTTP (`POST /v1/learnwares`): its effect off its
task is what its own capability says (`learnware-serving measure` writes it).
"""

import argparse
import json
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from serving.cli.fetching import fetch_named
from serving.terminal import ByteBar
from specs.canary import learnware_of, read_share, share_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving.launch.market_setup import RunningStack
    from specs.market.journal import Record
    from specs.market.staged import Staged
    from specs.market.store import Market

_SOURCE = "a folder, a zip, hf://owner/name[@revision], s3://…, gs://…, or https://….zip"


class _Opened(NamedTuple):
    """The market that a command works on, and the stack that serves it, or None."""

    market: "Market"
    stack: "RunningStack | None"


UNTRIED = ("it was submitted from the command line, so no engine has tried what it answers",)
"""The note on a learnware that is taken in here."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `market` with its subcommands to the project's command line."""
    market = subparsers.add_parser("market", help="submit, find, replace and remove learnwares")
    commands = market.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str, *, source: str | None = None) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=summary, description=summary)
        parser.add_argument(
            "--config",
            type=Path,
            help="the stack's YAML file: says where the market is, and what submissions must fit (default: that of the "
            "stack that runs on --port, else the built-in defaults)",
        )
        parser.add_argument(
            "--market",
            type=Path,
            help="the market's folder (default: market.path of --config, else the market of the stack that runs on "
            "--port)",
        )
        parser.add_argument("--port", type=int, help="HTTP port of the stack (default: http.port, 8000)")
        if source is not None:
            parser.add_argument("source", help=source)
        parser.set_defaults(run=run, create=False)
        return parser

    submit = command("submit", _submit, "check a learnware and serve it under its id", source=_SOURCE)
    submit.add_argument(
        "--create", action="store_true", help="make the market if there is none in the folder (default: an error)"
    )
    submit.add_argument(
        "--canary",
        metavar="SHARE",
        help="it is a new version of a learnware that is served, which answers this share of its requests at first, "
        "such as 5%% (default: it is a new learnware)",
    )
    command(
        "replace", _replace, "check a new version of a learnware and serve it instead of the old one", source=_SOURCE
    )
    listing = command("list", _list, "list learnwares (default: those that are served)")
    which = listing.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="also what was replaced, removed, quarantined or is unfit")
    which.add_argument("--quarantined", action="store_true", help="what is in quarantine instead, with the reasons")
    which.add_argument(
        "--unfit", action="store_true", help="what does not fit the configuration instead, with the reasons"
    )
    show = command("show", _show, "say everything about one learnware, as JSON")
    show.add_argument("id", help="the learnware's id; also of one that is not served any more")
    search = command("search", _search, "find learnwares that are served; the status is 1 if there is none")
    search.add_argument("text", nargs="*", help="words that must all be in name, tags or description (default: any)")
    for option in ("domain", "task", "language"):
        search.add_argument(f"--{option}", help=f"only learnwares of this {option} (default: of any)")
    remove = command("remove", _remove, "serve a learnware no more; its files go an hour later")
    remove.add_argument("id", help="the learnware's id")
    quarantine = command("quarantine", _quarantine, "serve a learnware no more, and keep it out with the reason")
    quarantine.add_argument("id", help="the learnware's id")
    quarantine.add_argument("--reason", required=True, help="why, in words; whoever submits it again is told")
    release = command(
        "release",
        _release,
        "take a learnware out of quarantine: one that was served is served again, any other may be submitted again",
    )
    release.add_argument("id", help="the learnware's id, as `market list --quarantined` shows it")
    promote = command("promote", _promote, "put a learnware's canary in its place: its version answers all requests")
    promote.add_argument("id", help="the learnware's id")
    promote.add_argument("--reason", help="why, in words, for the learnware's history (default: none)")
    roll_back = command("roll-back", _roll_back, "serve a learnware's canary no more; the learnware stays as it is")
    roll_back.add_argument("id", help="the learnware's id")
    roll_back.add_argument("--reason", required=True, help="why, in words, for the learnware's history")
    command(
        "purge",
        _purge,
        "remove the files of all that is in quarantine, was replaced or was removed, at once (by themselves they go "
        "after an hour; quarantine keeps 100 learnwares and 4 GiB)",
    )
    check = command("check", _check, "check a learnware without submitting it, or the market itself")
    check.add_argument("source", nargs="?", help=f"{_SOURCE} (default: none, and the market's integrity is checked)")


def _submit(options: argparse.Namespace) -> int:
    share = None if options.canary is None else read_share(options.canary)
    opened = _open(options)
    with _staged(options, opened.market) as staged:
        noted = staged._replace(notes=(*staged.notes, *UNTRIED))
        record = opened.market.submit(noted) if share is None else opened.market.submit_canary(noted, share)
        _say_unmeasured(staged)
    _say_served(opened, record)
    return 0


def _replace(options: argparse.Namespace) -> int:
    opened = _open(options)
    with _staged(options, opened.market) as staged:
        record = opened.market.replace(staged._replace(notes=(*staged.notes, *UNTRIED)))
        _say_unmeasured(staged)
    _say_served(opened, record)
    return 0


def _followed(opened: _Opened) -> str | None:
    """Waits until the stack that serves the market has followed its last change. Returns None then, and otherwise who
    will follow, and when."""
    from serving.launch.market_setup import wait_until_followed
    from specs.market.catalogue import read_catalogue

    if (reason := opened.market.unpublished) is not None:
        return f"as soon as the market's catalogue can be written ({reason}): the change is made, and kept"
    if opened.stack is None:
        return f"as soon as a stack runs on this market (market.path: {opened.market.root})"
    if wait_until_followed(opened.stack, read_catalogue(opened.market.root).sequence):
        return None
    return f"as soon as the stack on port {opened.stack.port} has followed, which it has not done yet; see its log"


def _say_served(opened: _Opened, record: "Record") -> None:
    later = _followed(opened)
    what = f"{record.id}, version {record.version}, "
    print(f"{what}is served from now on" if later is None else f"{what}is in the market; it is served {later}")
    if record.share is not None:
        print(f"it gets {share_in_words(record.share)} of the requests for which {learnware_of(record.id)} is chosen")


def _say_gone(opened: _Opened, record: "Record") -> None:
    later = _followed(opened)
    what = f"{record.id}, version {record.version}, "
    if record.state == "quarantined":
        what += f"is in quarantine: {record.reason}; it "
    print(f"{what}is served no more" if later is None else f"{what}is served no more {later}")


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

    state = State.QUARANTINED if options.quarantined else State.UNFIT if options.unfit else State.ACTIVE
    market = _open(options).market
    _print(market.records(None if options.all else state))
    unserved = market.unserved()
    if state is State.ACTIVE and not options.all and unserved:
        others = ", ".join(f"{count} {name} (--{name})" for name, count in unserved.items())
        print(f"not served: {others}", file=sys.stderr)
    return 0


def _show(options: argparse.Namespace) -> int:
    from serving.applications.market_record import describe_whole

    market = _open(options).market
    record = market.show(options.id)
    folder = market.folder(record)
    print(
        json.dumps(
            describe_whole(market, record) | {"folder": str(folder) if folder else None}, indent=1, ensure_ascii=False
        )
    )
    return 0


def _search(options: argparse.Namespace) -> int:
    found = _open(options).market.search(
        " ".join(options.text), domain=options.domain, task=options.task, language=options.language
    )
    _print(found)
    return 0 if found else 1


def _remove(options: argparse.Namespace) -> int:
    opened = _open(options)
    _say_gone(opened, opened.market.remove(options.id))
    return 0


def _quarantine(options: argparse.Namespace) -> int:
    opened = _open(options)
    _say_gone(opened, opened.market.quarantine(options.id, options.reason))
    return 0


def _release(options: argparse.Namespace) -> int:
    from specs.market.journal import State

    opened = _open(options)
    record = opened.market.release(options.id)
    if record.state is State.ACTIVE:
        _say_served(opened, record)
    else:
        print(f"{record.id}, version {record.version}, is out of quarantine and may be submitted again")
    return 0


def _promote(options: argparse.Namespace) -> int:
    opened = _open(options)
    _say_served(opened, opened.market.promote(options.id, reason=options.reason or None))
    return 0


def _roll_back(options: argparse.Namespace) -> int:
    opened = _open(options)
    _say_gone(opened, opened.market.roll_back(options.id, options.reason))
    return 0


def _purge(options: argparse.Namespace) -> int:
    freed = _open(options).market.purge()
    print(f"freed {freed.bytes / (1 << 20):.1f} MiB: the files of {freed.learnwares} learnwares that are not served")
    return 0


def _check(options: argparse.Namespace) -> int:
    market = _open(options).market
    if options.source is not None:
        with _staged(options, market, record=False) as staged:
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


def _open(options: argparse.Namespace) -> _Opened:
    from serving.base_model import ensure_base_model
    from serving.config import load_config
    from serving.launch.market_setup import find_market
    from serving.paths import cache_folder
    from serving.requirements import market_requirements
    from specs.market.store import Market

    asked = load_config(options.config, None if options.port is None else {"http": {"port": options.port}})
    folder, config, stack = find_market(
        asked, given=options.config is not None, market=options.market, create=options.create
    )
    base = ensure_base_model(
        config.base_model.source,
        cache_folder(),
        lambda text: print(text, file=sys.stderr),
        config.base_model.revision,
    )
    return _Opened(Market(folder, market_requirements(config, base)), stack)


def _print(records: "list[Record]") -> None:
    for record in records:
        card = record.card
        tags = f"{card.domain}: {', '.join(card.tasks)}  {card.name}" if card else ""
        print(f"{record.id}  version {record.version}  {record.state}  {tags or record.reason or ''}".rstrip())
        if record.share is not None:
            print(f"    canary with {share_in_words(record.share)} of the requests")
        if card and record.reason:
            print(f"    {record.reason}")
        for note in record.notes:
            print(f"    note: {note}")


@contextmanager
def _staged(options: argparse.Namespace, market: "Market", *, record: bool = True) -> "Iterator[Staged]":
    """Takes in and checks the source that a command names; one that is not on this machine is fetched first."""
    source = Path(options.source)
    with tempfile.TemporaryDirectory(prefix="learnware-market-") as place:
        if not source.exists():
            source = fetch_named(options.source, Path(place)).folder
        with ByteBar(source.name) as bar, market.stage(source, progress=bar.bytes, record=record) as staged:
            yield staged
