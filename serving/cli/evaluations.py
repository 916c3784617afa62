"""`learnware-serving evaluations`: how models compare on a running stack, and what becomes of canaries, over HTTP."""

import argparse
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from serving.cli.decisions import add_stack_options, stack_of, time_of

PATH = "/v1/evaluations"
"""Path of the evaluations below a stack's URL."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `evaluations` to the project's command line."""
    summary = "say how models compare on the same requests, and what becomes of canaries"
    parser = subparsers.add_parser("evaluations", help=summary, description=summary)
    add_stack_options(parser)
    parser.add_argument("--learnware", help="only comparisons with this model, and its canaries")
    parser.add_argument("--after", type=time_of, help="only requests after this time (ISO 8601, or epoch seconds)")
    parser.set_defaults(run=_evaluations)


def _evaluations(options: argparse.Namespace) -> int:
    params = {} if options.learnware is None else {"learnware": options.learnware}
    params |= {} if options.after is None else {"after": f"{options.after:.6f}"}
    with stack_of(options) as stack:
        text = stack.ask("GET", PATH, params=params)
    if options.json:
        print(text)
        return 0
    found = json.loads(text)
    for pair in found["pairs"]:
        print(_pair_in_words(pair))
    for canary in found["canaries"]:
        print(_canary_in_words(canary))
    if not found["pairs"] and not found["canaries"]:
        print("no answers were compared")
    judge = found["judge"] or "none"
    print(f"judge: {judge}; {found['waiting']} comparisons wait, {found['failed']} got no verdict")
    return 0


def _pair_in_words(pair: Mapping[str, Any]) -> str:
    low, high = pair["interval"]
    return (
        f"{pair['second']} over {pair['first']} ({pair['kind']}, {pair['source']}): wins {pair['win_rate']:.1%} "
        f"({low:.1%} to {high:.1%}) of {pair['comparisons']}: {pair['wins']:g} wins, {pair['ties']:g} ties, "
        f"{pair['losses']:g} losses"
    )


def _canary_in_words(canary: Mapping[str, Any]) -> str:
    since = datetime.fromtimestamp(canary["since"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    answers = "" if canary["answers"] is None else f", {canary['answers']} answers"
    why = "" if canary["why"] is None else f". {canary['why']}"
    return (
        f"canary of {canary['learnware']} ({canary['version']}), {canary['share']:.1%} since {since}{answers}: "
        f"{canary['state']}, {canary['verdict']}{why}"
    )
