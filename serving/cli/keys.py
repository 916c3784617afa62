"""`learnware-serving keys …`: API keys of the key file. Running stacks that follow the file take each change within
some seconds.

A new key is printed once, alone on standard output; the file keeps its digest. Everything else that is said goes to
standard error, but for the list.
"""

import argparse
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specs.errors import InvalidConfig, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving.access.key_file import KeyEntry

KEY_PREFIX = "lw-"
"""Beginning of every key made here, by which people and scanners of leaked secrets know one."""
KEY_BYTES = 32
"""Random bytes of a key: 256 bits, which nobody guesses."""
SHOWN_DIGITS = 12
"""Digits of a digest that are shown, by which a key can be named."""
LEAST_DIGITS = 6
"""Fewest digits of a digest that name a key."""
ANY = "any"
"""Value of an option that takes a limit away."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `keys` with its subcommands to the project's command line."""
    keys = subparsers.add_parser("keys", help="add, list and revoke API keys, while stacks run")
    commands = keys.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=summary, description=summary)
        where = parser.add_mutually_exclusive_group()
        where.add_argument("--file", type=Path, help="the key file (default: keys.file of the configuration)")
        where.add_argument(
            "--config", type=Path, help="the stack's YAML file (default: that of the stack that runs on --port)"
        )
        parser.add_argument("--port", type=int, help="HTTP port of the stack (default: http.port, 8000)")
        parser.set_defaults(run=run)
        return parser

    add = command("add", _add, "make a key, print it once, and keep its digest")
    add.add_argument("name", help="the tenant's name; one that has a key gets another one, with the same limits")
    default = "default: the tenant's so far, else limits.* of the configuration"
    for option, what in (
        ("--requests-per-minute", "most requests a minute"),
        ("--tokens-per-minute", "most tokens of prompts and answers a minute"),
        ("--concurrent-requests", "most requests at once"),
        ("--max-tokens", "most tokens of one answer"),
    ):
        add.add_argument(option, type=_count, metavar="N", help=f"{what}; `{ANY}`: without limit ({default})")
    add.add_argument("--models", nargs="+", metavar="MODEL", help=f"values of `model` that it may use; `{ANY}`: all")
    add.add_argument("--weight", type=float, help="share among tenants that wait (default: 1)")
    add.add_argument(
        "--priority", type=int, help="best priority that requests may ask for, at most 0 (default: 0, none)"
    )
    add.add_argument("--metrics", action=argparse.BooleanOptionalAction, help="may read /metrics (default: no)")

    command("list", _list, "list names, beginnings of digests, times and limits")

    revoke = command("revoke", _revoke, "let a key hold no more")
    revoke.add_argument("key", help=f"the tenant's name, or {LEAST_DIGITS} or more first digits of the key's digest")
    revoke.add_argument("--all", action="store_true", help="all keys of the name (default: refused if it has several)")


def _add(options: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from serving.access.key_file import LIMITS, KeyEntry, changing
    from serving.access.keyring import digest_of

    path = _key_file(options)
    key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    given = {name: getattr(options, name) for name in LIMITS if getattr(options, name) is not None}
    limits = {
        name: None if value in (ANY, [ANY]) else tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
    }
    with changing(path) as entries:
        before = next((entry.limits for entry in reversed(entries) if entry.name == options.name), {})
        made = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            entry = KeyEntry(name=options.name, sha256=digest_of(key), created=made, **(before | limits))
        except ValidationError as error:
            (fault, *_) = error.errors()
            place = ".".join(map(str, fault["loc"]))
            raise InvalidInput(f"{place}: {str(fault['msg']).removeprefix('Value error, ')}") from None
        entries.append(entry)
        others = sum(each.name == options.name for each in entries) - 1
    print(key, flush=True)
    _say(f"{options.name} may use this key, which is not shown again; {path} has its digest {_short(entry)}")
    if others:
        noun = "another key" if others == 1 else f"{others} other keys"
        _say(f"{options.name} has {noun} that holds on: `learnware-serving keys revoke DIGEST` ends one")
    return 0


def _list(options: argparse.Namespace) -> int:
    from serving.access.key_file import read_keys

    path = _key_file(options)
    entries = read_keys(path)
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        limits = ", ".join(f"{name} {_value(value)}" for name, value in entry.limits.items())
        print(f"{entry.name:{width}}  {_short(entry)}  {entry.created or '-':20}  {limits or '-'}")
    if not entries:
        _say(f"there is no key in {path}")
    return 0


def _revoke(options: argparse.Namespace) -> int:
    from serving.access.key_file import changing

    path = _key_file(options)
    if not path.expanduser().exists():
        raise InvalidInput(f"there is no key file {path}")
    with changing(path) as entries:
        found = _named(entries, options.key)
        if not found:
            raise InvalidInput(f"no key has this name or digest: {options.key!r}; `keys list` shows all")
        if len(found) > 1 and not (options.all and len({entry.name for entry in found}) == 1):
            which = ", ".join(f"{entry.name} {_short(entry)} of {entry.created or 'unknown time'}" for entry in found)
            raise InvalidInput(f"{options.key} stands for several keys: {which}; give the digest of one, or --all")
        entries[:] = [entry for entry in entries if entry not in found]
    for entry in found:
        _say(f"the key {_short(entry)} of {entry.name} holds no more")
    return 0


def _named(entries: "Sequence[KeyEntry]", named: str) -> "list[KeyEntry]":
    """Returns the keys that are meant by a name, or by the beginning of a digest."""
    beginning = named.lower()
    digits = len(beginning) >= LEAST_DIGITS
    return [entry for entry in entries if entry.name == named or (digits and entry.sha256.startswith(beginning))]


def _key_file(options: argparse.Namespace) -> Path:
    """Returns the file that a command works on.

    Raises:
        InvalidConfig: nothing names one.
    """
    if options.file is not None:
        file: Path = options.file
        return file.expanduser()
    from serving.config import load_config

    config = load_config(options.config, None if options.port is None else {"http": {"port": options.port}})
    if options.config is None:
        from serving.launch.market_setup import running_stacks

        config = next((each.config for each in running_stacks(config) if each.port == config.http.port), config)
    if config.keys.path is None:
        raise InvalidConfig(
            f"no key file is named: set keys.file in {options.config or 'a configuration and give it with --config'}, "
            "or give --file FILE and let keys.file of the stack name the same one"
        )
    return config.keys.path


def _count(text: str) -> int | str:
    """Reads a limit: a positive whole number, or `any`."""
    if text == ANY:
        return text
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number from 1 nor `{ANY}`")
    return int(text)


def _short(entry: "KeyEntry") -> str:
    return entry.sha256[:SHOWN_DIGITS]


def _value(value: Any) -> str:
    if value is None:
        return ANY
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
