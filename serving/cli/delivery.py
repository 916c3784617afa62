"""The places to which `learnware add` brings a learnware: the stack that runs, which tries it on its engine and
measures it off its task, a market's folder, or a folder of the caller's. It then says what became of it."""

import argparse
import json
import os
import shlex
import shutil
import sys
import zipfile
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from serving.cli.stack_client import Refused, StackClient
from specs.canary import share_in_words
from specs.card import Card
from specs.errors import InvalidInput, UnknownLearnware

if TYPE_CHECKING:
    from serving.config import Config
    from specs.market.checks import Requirements
    from specs.market.store import Market
    from specs.row_forms import FormedRow

ROUTED = 8
"""Rows for which a stack on this machine is asked whom `auto` would choose."""


class Target(NamedTuple):
    """The place that a learnware goes to: a stack, a market, or (neither) a folder or nothing. `base` is the id of the
    base model there."""

    base: str
    stack: StackClient | None = None
    market: "Market | None" = None


class Made(NamedTuple):
    """A learnware's folder that has all that it needs; `share` where it is a canary."""

    folder: Path
    card: Card
    rows: "Sequence[FormedRow]"
    specified: bool
    share: float | None = None


def find_target(options: argparse.Namespace, config: "Config", open_: ExitStack) -> Target:
    """Finds the place that the learnware goes to, before anything is fetched.

    Raises:
        InvalidInput: there is none, with what would make one.
    """
    from serving.access.keyring import named_keys
    from serving.launch.local_key import admin_key

    served = config.base_model.served_id
    if options.market is not None:
        return Target(served, market=_market(config, options.market, new=False))
    if options.url is None:
        api_key = named_keys(config.api_keys, "api_keys")[0].key if config.api_keys else None
        stack = StackClient.on_this_machine(config, options.key or admin_key(config), api_key)
    else:
        stack = StackClient(options.url, options.key or _key_of_environment())
    open_.enter_context(stack)
    if options.out is not None:
        return Target(served)
    found = stack.look()
    if options.dry_run:
        return Target(found.base or served)
    if found.answers:
        return Target(found.base or served, stack=stack)
    if options.url is not None:
        raise InvalidInput(
            f"no stack of this project answers at {options.url}; give --url the address of a running one"
        )
    if config.market.folder is not None:
        return Target(served, market=_market(config, config.market.folder, new=True))
    raise InvalidInput(
        f"no stack runs on port {config.http.port}, and market.path is not set: start one (`learnware-serving serve`), "
        "or give --config, --url http://…, --market FOLDER, or --out FOLDER"
    )


def known_version(learnware_id: str, target: Target) -> tuple[int, bool] | None:
    """Returns the latest version of an id at the target, canaries included, and whether the id is served; None where
    it is new."""
    if target.stack is not None:
        found = target.stack.show(learnware_id)
        if found is None:
            return None
        versions = [found, *(found.get("canaries") or ()), *filter(None, [found.get("canary")])]
        return max(int(one["version"]) for one in versions), found["state"] == "active"
    if target.market is not None:
        try:
            record = target.market.show(learnware_id)
        except UnknownLearnware:
            return None
        return max(record.version, target.market.highest_version(learnware_id) or 0), record.state == "active"
    return None


def deliver(options: argparse.Namespace, config: "Config", target: Target, made: Made, place: Path) -> None:
    """Brings a learnware to its target and says what became of it; `place` is a folder for what is needed on the way.

    Raises:
        Refused: the stack refuses it.
        InvalidLearnware: the market refuses it, or one of the checks.
    """
    from specs.market.checks import Requirements
    from specs.market.store import Market

    if target.market is not None:
        _submit(target.market, made, config)
        return
    # As a market here would take it in. What a stack elsewhere needs (its base's layers and names), it knows itself.
    needed = _requirements(config, target.base) if options.url is None else Requirements()
    with Market(place / "market", needed).stage(made.folder, record=False) as staged:
        _say_notes(staged.notes)
        if target.stack is not None:
            _send(target.stack, made._replace(folder=staged.folder), place, options, config, staged.notes)
            return
        if options.out is not None:
            shutil.copytree(staged.folder, options.out, dirs_exist_ok=True)
    print(f"{made.card.id}, version {made.card.version}: every check that needs no engine passed")
    if options.out is not None:
        print(f"It is in {options.out}; learnware-serving learnware add {shlex.quote(str(options.out))} serves it.")
    _say_who_chooses(made)


def _send(
    stack: StackClient,
    made: Made,
    place: Path,
    options: argparse.Namespace,
    config: "Config",
    noted: Collection[str],
) -> None:
    """Sends the learnware to a running stack, and says what became of it; what was `noted` before is not said again."""
    zipped = place / "learnware.zip"
    with zipfile.ZipFile(zipped, "w") as archive:  # stored: weights hardly shrink
        for path in sorted(path for path in made.folder.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(made.folder).as_posix())
    known = stack.show(made.card.id)
    replaced = made.card.id if known is not None and known["state"] == "active" else None
    print(f"the stack at {stack.url} checks and tries {made.card.id}", flush=True)
    try:
        served = stack.submit(zipped, replaced, made.share)
    except Refused as refused:
        hint = "; give it with --key or LEARNWARE_ADMIN_KEY" if refused.answered in (401, 403) else ""
        raise Refused(f"{str(refused).rstrip('.')}{hint}", refused.answered) from None
    state = "is served" if served.served else "is accepted; not every replica serves it yet, they follow by themselves"
    print(f"{served.id}, version {served.version}, {state}")
    shown = stack.show(served.id) or {}
    _say_notes(note for note in shown.get("notes", ()) if note not in noted)
    off_task = (shown.get("off_task") or {}).get("note")
    if off_task:
        print(f"off its task: {off_task}")
    if made.share is not None:
        _say_share(made)
        return
    routed = _routed(stack, made) if options.url is None else None
    _say_who_chooses(made, routed)
    _say_how_to_ask(made, stack.url, _needs_key(config))


def _submit(market: "Market", made: Made, config: "Config") -> None:
    """Submits the learnware to a market's folder."""
    from serving.launch.instance import local_url
    from specs.market.journal import State

    replaced = any(record.id == made.card.id for record in market.records(State.ACTIVE))
    with market.stage(made.folder) as staged:
        _say_notes(staged.notes)
        if made.share is not None:
            record = market.submit_canary(staged, made.share)
        else:
            record = (market.replace if replaced else market.submit)(staged)
    print(f"{record.id}, version {record.version}, is in the market in {market.root}")
    print(
        "No engine has tried it, and it was not measured off its task: a stack that serves this market takes it up by "
        "itself and leaves it out if its engine refuses it. Added to a running stack (--url) it is tried at once."
    )
    if made.share is not None:
        _say_share(made)
        return
    _say_who_chooses(made)
    _say_how_to_ask(made, local_url(config), _needs_key(config))


def _say_share(made: Made) -> None:
    print(
        f"It gets {share_in_words(made.share or 0)} of the requests for which {made.card.id} is chosen, until `market "
        f"promote {made.card.id}` or `market roll-back {made.card.id}`, or the rule for canaries decides."
    )


def _say_notes(notes: Iterable[str]) -> None:
    """Says what checks and trial noted without refusing it."""
    for note in notes:
        print(f"note: {note}")


def _routed(stack: StackClient, made: Made) -> tuple[int, int] | None:
    """Returns for how many of some rows `auto` would choose the learnware, and of how many. They stay on this
    machine."""
    from specs.routed_rows import routed_rows

    if not made.rows or not made.specified:
        return None
    prompts = routed_rows(made.rows)
    count = min(ROUTED, len(prompts))
    asked = [prompts[number * len(prompts) // count].prompt for number in range(count)]
    chosen = [stack.chosen([{"role": "user", "content": prompt}]) for prompt in asked]
    return chosen.count(made.card.id), count


def _say_who_chooses(made: Made, routed: tuple[int, int] | None = None) -> None:
    if not made.specified:
        print(
            f"It has no specification, so requests reach it by its name ({made.card.id}) and `auto` never chooses it; "
            "give --rows or --examples for that."
        )
    elif routed is None:
        print("`auto` chooses it for requests like its rows and examples, where it is expected to answer best.")
    elif routed[0]:
        print(f"`auto` chooses it for {routed[0]} of {routed[1]} of the rows that were looked at.")
    else:
        print(
            f"`auto` chooses it for none of {routed[1]} of the rows that were looked at: others are expected to answer "
            "them better. POST /v1/route says who, and why."
        )


def _say_how_to_ask(made: Made, url: str, needs_key: bool) -> None:
    prompt = made.card.examples[0] if made.card.examples else "…"
    body = json.dumps(
        {"model": made.card.id, "messages": [{"role": "user", "content": prompt}], "max_tokens": 64}, ensure_ascii=False
    )
    key = " -H 'Authorization: Bearer YOUR_KEY'" if needs_key else ""
    print(f"ask it: curl -s {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d {shlex.quote(body)}")


def _market(config: "Config", folder: Path, *, new: bool) -> "Market":
    """Opens a market's folder; `new` says that it may be one that no stack has opened yet.

    Raises:
        InvalidInput: there is no market.
    """
    from specs.market.journal import JOURNAL_FILE
    from specs.market.store import Market

    if not new and not (folder / JOURNAL_FILE).is_file():
        raise InvalidInput(f"there is no market in {folder}; give --market the folder of one, or --out FOLDER")
    return Market(folder, _requirements(config, config.base_model.served_id))


def _requirements(config: "Config", base: str) -> "Requirements":
    """Returns the requirements of the configuration, or, for another base model than its, only that one."""
    from serving import base_model
    from serving.paths import cache_folder
    from serving.requirements import market_requirements
    from specs.market.checks import Requirements

    if base != config.base_model.served_id:
        return Requirements(base_model=base)
    source, revision = config.base_model.source, config.base_model.revision
    folder = base_model.ensure_base_model(source, cache_folder(), lambda text: print(text, file=sys.stderr), revision)
    return replace(market_requirements(config, folder), base_model=base)


def _needs_key(config: "Config") -> bool:
    from serving.access.keyring import keys_required

    return keys_required(config)


def _key_of_environment() -> str | None:
    from serving.access.keyring import ADMIN_KEY_VARIABLE

    return os.environ.get(ADMIN_KEY_VARIABLE) or None
