"""`learnware-serving feedback …`: what was learnt from feedback, what waits for approval, and the way back.

A running stack follows within seconds; none needs to run.
"""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specs.evidence_store import EvidenceStore


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `feedback` with its subcommands to the project's command line."""
    feedback = subparsers.add_parser("feedback", help="see, approve and take back what was learnt from feedback")
    commands = feedback.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=summary, description=summary)
        parser.add_argument("--config", type=Path, help="the stack's YAML file, which says where the market is")
        parser.add_argument("--market", type=Path, help="the market's folder (default: market.path of --config)")
        parser.add_argument("--port", type=int, help="HTTP port of the stack whose market it is (default: 8000)")
        parser.set_defaults(run=run)
        return parser

    command("show", _show, "say what feedback says of each task, what is held, and which versions are kept")
    approve = command("approve", _approve, "put changes that are held into effect")
    approve.add_argument("--task", help="only changes on this task, as `show` names it (default: on any)")
    approve.add_argument("--learnware", help="only changes of this learnware (default: of any)")
    back = command("roll-back", _roll_back, "go back to an earlier version; feedback that came since is set aside")
    back.add_argument("number", type=int, help="the version's number, as `show` lists it")


def _store(options: argparse.Namespace) -> "EvidenceStore":
    from serving.config import load_config
    from serving.launch.market_setup import find_market
    from specs.evidence_store import FOLDER, EvidenceStore

    asked = load_config(options.config, None if options.port is None else {"http": {"port": options.port}})
    folder, _, _ = find_market(asked, given=options.config is not None, market=options.market, create=False)
    return EvidenceStore(folder / FOLDER)


def _show(options: argparse.Namespace) -> int:
    store = _store(options)
    evidence = store.read()
    if evidence is None:
        print("nothing was learnt from feedback")
        return 0
    learnt = {one.name: one for one in evidence.tasks}
    for task, row in sorted(evidence.posteriors.items()):
        about = f" (learnt: {learnt[task].pieces} pieces of {learnt[task].tenants} tenants)" if task in learnt else ""
        print(f"{task}{about}")
        for name, one in sorted(row.items(), key=lambda item: -item[1].gain):
            if one.pieces:
                print(f"    {name}  gain {one.gain:+.2f} from {one.pieces:.1f} pieces")
    for held in evidence.held:
        print(f"held: {held.learnware} on {held.task}, gain {held.before:+.2f} would become {held.after.gain:+.2f}")
    print(f"version {evidence.number}; kept: {', '.join(map(str, store.numbers()))}")
    return 0


def _approve(options: argparse.Namespace) -> int:
    for one in _store(options).approve(options.task, options.learnware, time.time()):
        print(f"{one.learnware} on {one.task}: gain {one.before:+.2f} is now {one.after.gain:+.2f}")
    return 0


def _roll_back(options: argparse.Namespace) -> int:
    written = _store(options).roll_back(options.number, time.time())
    print(f"version {options.number} counts again, as version {written.number}")
    return 0
