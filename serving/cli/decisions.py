"""`learnware-serving decisions …`: the log of decisions of a running stack, over HTTP.

A stack on this machine is found by its port, and its owner's command line sees all tenants; elsewhere --url and --key
say which stack and whose decisions.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from specs.errors import InvalidInput

if TYPE_CHECKING:
    from serving.cli.stack_client import StackClient

PATH = "/v1/decisions"
"""Path of the log below a stack's URL."""
LOOK_EVERY_S = 1.0
"""Seconds between two looks of `tail`."""
LOOK_BACK_S = 120.0
"""Seconds that `tail` looks back: a record comes when its answer has ended, and later requests may end before."""
PAGE = 1000
"""The most records that one look takes."""
_FILTERS = {
    "tenant": "of this tenant (the admin key sees all, another key its own)",
    "learnware": "answered by this learnware, or by the base model's id",
    "reason": "with this reason (x-learnware-reason)",
    "status": "with this HTTP status, such as 200 or 4xx",
    "task": "whose choice found this task likeliest",
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `decisions` with its subcommands to the project's command line."""
    decisions = subparsers.add_parser("decisions", help="see what was chosen for requests, and why")
    commands = decisions.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=summary, description=summary)
        add_stack_options(parser)
        parser.set_defaults(run=run)
        return parser

    for name, run, summary in (
        ("tail", _tail, "print records as they come, until Ctrl-C"),
        ("list", _list, "print the newest records"),
    ):
        parser = command(name, run, summary)
        for option, what in _FILTERS.items():
            parser.add_argument(f"--{option}", help=f"only records {what}")
        if name == "list":
            parser.add_argument("--limit", type=int, default=50, help="the most records, up to 1000 (default: 50)")
            parser.add_argument(
                "--before", type=time_of, help="only requests before this time (ISO 8601, or epoch seconds)"
            )
            parser.add_argument("--after", type=time_of, help="only requests after this time")
    show = command("show", _show, "say everything that is kept of one request, as JSON")
    replay = command(
        "replay", _replay, "make a request's choice again over today's market; the status is 1 if it differs"
    )
    for parser in (show, replay):
        parser.add_argument("id", help="the request's id: the header x-request-id of its answer")
        parser.add_argument("--tenant", help="the tenant, where the admin key finds the id with several (default: any)")


def add_stack_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which stack is asked, by whom, and in which form the answer is printed."""
    parser.add_argument("--url", help="the stack, such as http://127.0.0.1:8000 (default: that of this machine)")
    parser.add_argument(
        "--key", help="API key or admin key (default: LEARNWARE_ADMIN_KEY, else that of the stack's run here)"
    )
    parser.add_argument("--config", type=Path, help="the stack's YAML file (default: the default configuration)")
    parser.add_argument("--port", type=int, help="HTTP port of the stack on this machine (default: http.port)")
    parser.add_argument("--json", action="store_true", help="print JSON (default: words)")


def _tail(options: argparse.Namespace) -> int:
    with stack_of(options) as stack:
        seen: dict[tuple[str, str, float], float] | None = None  # nothing was looked at yet
        while True:
            oldest = time.time() - LOOK_BACK_S
            page = {"after": f"{oldest:.6f}", "limit": str(PAGE)}
            records = _records(stack, _given(options) | page)
            if seen is not None:
                _print((one for one in reversed(records) if _key(one) not in seen), options)
            kept = {key: when for key, when in (seen or {}).items() if when >= oldest}
            seen = kept | {_key(one): one["time"] for one in records}
            time.sleep(LOOK_EVERY_S)


def _list(options: argparse.Namespace) -> int:
    times = {name: f"{value:.6f}" for name in ("before", "after") if (value := getattr(options, name)) is not None}
    with stack_of(options) as stack:
        _print(reversed(_records(stack, _given(options) | times | {"limit": str(options.limit)})), options)
    return 0


def _show(options: argparse.Namespace) -> int:
    with stack_of(options) as stack:
        record = json.loads(stack.ask("GET", _path(options), params=_of_tenant(options)))
    print(json.dumps(record, indent=None if options.json else 1))
    return 0


def _replay(options: argparse.Namespace) -> int:
    with stack_of(options) as stack:
        found = json.loads(stack.ask("POST", f"{_path(options)}/replay", params=_of_tenant(options)))
    if options.json:
        print(json.dumps(found))
    else:
        print(found["why"])
        print(f"then: {_choice_in_words(found['then'])}\nnow:  {_choice_in_words(found['choice'])}")
    return 1 if found["differs"] else 0


def stack_of(options: argparse.Namespace) -> "StackClient":
    """Returns the stack that the options of `add_stack_options` name."""
    from serving.access.keyring import ADMIN_KEY_VARIABLE
    from serving.cli.stack_client import StackClient
    from serving.config import load_config
    from serving.launch.local_key import admin_key

    config = load_config(options.config, None if options.port is None else {"http": {"port": options.port}})
    if options.url is not None:
        return StackClient(options.url, options.key or os.environ.get(ADMIN_KEY_VARIABLE) or None)
    return StackClient.on_this_machine(config, options.key or admin_key(config))


def _given(options: argparse.Namespace) -> dict[str, str]:
    return {name: value for name in _FILTERS if (value := getattr(options, name)) is not None}


def _of_tenant(options: argparse.Namespace) -> dict[str, str]:
    return {} if options.tenant is None else {"tenant": options.tenant}


def _path(options: argparse.Namespace) -> str:
    if not options.id or "/" in options.id:
        raise InvalidInput(f"{options.id!r} is no request's id: it is the header x-request-id of an answer")
    return f"{PATH}/{quote(options.id, safe='')}"


def _records(stack: "StackClient", parameters: Mapping[str, str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stack.ask("GET", PATH, params=dict(parameters)).splitlines()]


def _print(records: Iterable[Mapping[str, Any]], options: argparse.Namespace) -> None:
    for one in records:
        print(json.dumps(one) if options.json else _in_words(one))
    sys.stdout.flush()


def _in_words(one: Mapping[str, Any]) -> str:
    """Returns a record as a line. What strangers wrote (the model asked for) is shown with its escapes."""
    when = datetime.fromtimestamp(one["time"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ttft = "" if one["ttft_s"] is None else f" first {one['ttft_s']:.2f} s,"
    tokens = one["tokens"]
    feedback = f"  feedback {len(one['feedback'])}" if one["feedback"] else ""
    asked = "–" if one["model"] is None else repr(one["model"])[1:-1]
    counted = f"{tokens['prompt']}+{tokens['generated']} tokens"
    return (
        f"{when}  {one['id']}  {one['tenant']}  {one['status'] or 'hung up'}  {asked} > {one['learnware'] or '–'}"
        f"  {one['reason'] or '–'}  {counted},{ttft} {one['seconds']:.2f} s{feedback}"
    )


def _choice_in_words(choice: Mapping[str, Any]) -> str:
    candidates = ", ".join(f"{one['learnware']} {one['expected']:.3f}" for one in choice["candidates"] or ())
    return (
        f"{choice['learnware'] or 'the base model'} ({choice['reason']}); expected: base {choice['base']:.3f}"
        f"{', ' + candidates if candidates else ''}; market's change {choice['market']}"
    )


def _key(one: Mapping[str, Any]) -> tuple[str, str, float]:
    return one["tenant"], one["id"], one["time"]


def time_of(text: str) -> float:
    """Reads a time of the command line as epoch seconds."""
    try:
        return float(text) if text.replace(".", "", 1).isdecimal() else datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: write 2026-05-01T12:00:00Z, or seconds since 1970"
        ) from None
