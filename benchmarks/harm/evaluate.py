"""Does `auto` ever answer worse than the base model? Free-form requests that the rule gives to a learnware.

    python -m benchmarks.harm --data DATA [--choices FILE]                        who would answer which, no answers
    python -m benchmarks.harm --data DATA --url URL [--answers FILE] [--json FILE]
                                                                      and how: against a running stack
    … --scores FILE      rows with a reference: by the score matrix of `learnware-serving matrix` as well

A routed request is harmed where the learnware's greedy answer is degenerate and the base model's is not
(`specs.answers.degenerate`), or, where there is a reference answer, where that is more than `WORSE_NATS` a token less
likely. Three rules stand in one table: the router's, the nearest material whatever is asked (on a sample), always the
base. With `--url` the choices are the stack's own (`POST /v1/route`, which leaves no trace); with `--local`, or without
a stack, they are made here over the learnwares' folders. Answers are kept in the file of `--answers`: called again, the
benchmark goes on. Intervals are 95 %, Wilson's.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common.cases import prompts_folder, said, starters_of
from benchmarks.common.choosers import AlwaysBase, ByDomain, Chooser, OurRule, RememberingEncoder, keeping_base
from benchmarks.common.questions import prompt_hash
from benchmarks.common.report import add_output_options, result, setup, table, write_result
from benchmarks.common.scores import BASE, TaskScores, read_scores
from benchmarks.common.statistics import Share, percent, share
from benchmarks.common.tasks import add_data_option
from benchmarks.harm.answers import KeptAnswers, base_model_of, routed_by
from benchmarks.harm.requests import FreeForm, read_requests, sample_of
from router.settings import SelectionSettings
from specs.answers.degenerate import Fault, fault_of, is_degenerate
from specs.encoding.encoder import load_prompt_encoder
from specs.errors import LearnwareError
from specs.learnware import Learnware, load_learnwares

WORSE_NATS = 0.1
"""An answer is worse where a token of the reference answer is less likely by more than so many nats; equals differ by
less."""
BY_DOMAIN_SAMPLE = 300
SHORT = 4
OURS = "auto"
SHOWN = 12


class Routed(NamedTuple):
    """A request with the learnware that a rule chooses for it (None: the base model)."""

    request: FreeForm
    learnware: str | None


class Verdict(NamedTuple):
    """The comparison of a learnware's answer with the base model's. `fault` says how the learnware's alone is
    degenerate; `nats` is the difference in log-likelihood of the reference answer a token, where it is known."""

    routed: Routed
    fault: Fault | None
    nats: float | None

    @property
    def is_harmed(self) -> bool:
        return self.fault is not None or self.is_less_likely

    @property
    def is_less_likely(self) -> bool:
        return self.nats is not None and self.nats < -WORSE_NATS


def routed(requests: Sequence[FreeForm], chooser: Chooser) -> list[Routed]:
    return [Routed(one, chooser.choose(said(one.prompt)).learnware_id) for one in requests]


def judged(
    found: Sequence[Routed],
    answers: KeptAnswers | None,
    base: str,
    labels: Mapping[str, Sequence[str]],
    scores: Mapping[str, TaskScores],
) -> list[Verdict]:
    """Returns verdicts on the routed requests that can be judged: all of them with a stack, else those that the scores
    hold."""
    verdicts = []
    for one in found:
        nats = _nats(one, scores)
        if one.learnware is None or (answers is None and nats is None):
            continue
        fault = None
        if answers is not None:
            own, of_base = answers.of(one.request.prompt, one.learnware), answers.of(one.request.prompt, base)
            if not is_degenerate(of_base):
                fault = fault_of(own, labels=labels.get(one.learnware, ()), base=of_base)
        verdicts.append(Verdict(one, fault, nats))
    return verdicts


def _nats(one: Routed, scores: Mapping[str, TaskScores]) -> float | None:
    entry = scores.get(one.request.task or "")
    if entry is None or one.learnware not in entry.gold or one.request.row not in entry.rows:
        return None
    position = entry.rows.index(one.request.row)
    return float(entry.gold[one.learnware][position] - entry.gold[BASE][position])


def figures_of(name: str, found: Sequence[Routed], verdicts: Sequence[Verdict]) -> dict[str, Share]:
    """Returns the shares of routed and of harmed requests of one rule, over all and by set. `name` prefixes every
    rule's figures except the router's."""
    prefix = "" if name == OURS else f"{name.replace(' ', '_')}_"
    shares = {f"{prefix}routed_share": share(one.learnware is not None for one in found)}
    shares[f"{prefix}harm_share"] = share(one.is_harmed for one in verdicts)
    shares[f"{prefix}degenerate_share"] = share(one.fault is not None for one in verdicts)
    known = [one for one in verdicts if one.nats is not None]
    shares[f"{prefix}less_likely_share"] = share(one.is_less_likely for one in known)
    for kind in dict.fromkeys(one.request.set for one in found):
        of_kind = [one for one in found if one.request.set == kind]
        shares[f"{prefix}routed_share_{kind}"] = share(one.learnware is not None for one in of_kind)
        shares[f"{prefix}harm_share_{kind}"] = share(
            one.is_harmed for one in verdicts if one.routed.request.set == kind
        )
    return shares


def flat(shares: Mapping[str, Share]) -> dict[str, float]:
    """Returns figures by name: the shares that have rows, the harm's upper bounds, and the numbers of routed
    requests."""
    figures = {name: one.value for name, one in shares.items() if one.rows}
    for name, one in shares.items():
        if name.endswith("harm_share") and one.rows:
            figures[f"{name}_upper_95"] = one.interval[1]
        if name.endswith("routed_share"):
            figures[name.removesuffix("share") + "requests"] = float(one.yes)
    return figures


def report(rules: Mapping[str, tuple[Sequence[Routed], Sequence[Verdict]]]) -> dict[str, Share]:
    shares: dict[str, Share] = {}
    for name, (found, verdicts) in rules.items():
        of_rule = figures_of(name, found, verdicts)
        shares |= of_rule
        prefix = "" if name == OURS else f"{name.replace(' ', '_')}_"
        kinds = ["", *(f"_{kind}" for kind in dict.fromkeys(one.request.set for one in found))]
        rows = []
        for kind in kinds:
            given, bad = of_rule[f"{prefix}routed_share{kind}"], of_rule[f"{prefix}harm_share{kind}"]
            upper = f"{100 * bad.interval[1]:.1f}" if bad.rows else "–"
            counts = [str(given.rows), percent(given), str(bad.rows), percent(bad), upper]
            rows.append([kind.lstrip("_") or "all", *counts])
        header = [f"{name}: set", "requests", "routed, %", "judged", "harmed, %", "at most (95 %)"]
        print(table(header, rows), end="\n\n")
    return shares


def harmed(verdicts: Sequence[Verdict], answers: KeptAnswers | None, base: str) -> list[dict[str, Any]]:
    """Returns the first of the harmed requests with both answers."""
    shown = []
    for one in [one for one in verdicts if one.is_harmed][:SHOWN]:
        prompt, learnware = one.routed.request.prompt, one.routed.learnware or base
        row: dict[str, Any] = {"set": one.routed.request.set, "prompt": prompt[:200], "learnware": learnware}
        row |= {"fault": one.fault, "nats": one.nats}
        if answers is not None:
            row |= {"answer": answers.of(prompt, learnware)[:200], "base": answers.of(prompt, base)[:200]}
        shown.append(row)
    return shown


def write_choices(path: Path, rules: Mapping[str, Sequence[Routed]]) -> None:
    """Writes one line for each choice: rule, set, learnware (null: base), and the prompt."""
    lines = [
        json.dumps(
            {
                "rule": name,
                "set": one.request.set,
                "learnware": one.learnware,
                "prompt_sha256": prompt_hash(one.request.prompt),
                "prompt": one.request.prompt,
            },
            ensure_ascii=False,
        )
        for name, found in rules.items()
        for one in found
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"written: {path}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harm", description=__doc__.split("\n")[0])
    add_data_option(parser)
    parser.add_argument("--prompts", type=Path, help="folder of users' questions, as in benchmarks.selection")
    parser.add_argument("--url", help="a running stack, such as http://127.0.0.1:8000")
    parser.add_argument("--local", action="store_true", help="choose here, over --learnwares, not by the stack")
    parser.add_argument("--base-model", help="id of the stack's base model (default: as GET /v1/models says)")
    parser.add_argument("--answers", type=Path, help="file where answers are kept (JSON lines)")
    parser.add_argument("--choices", type=Path, help="also write every choice here (JSON lines; holds the prompts)")
    parser.add_argument("--scores", type=Path, help="score matrix with tasks in sentences")
    parser.add_argument("--short", action="store_true", help=f"one request in {SHORT}")
    parser.add_argument("--kept", action="store_true", help="with choices made here: as in benchmarks.selection")
    add_output_options(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    if options.data is None:
        print("benchmarks.harm needs the task data: --data FOLDER, or LEARNWARE_DATA", file=sys.stderr)
        return 2
    try:
        return asyncio.run(_measure(options))
    except LearnwareError as error:
        print(f"benchmarks.harm: {error}", file=sys.stderr)
        return 1


async def _measure(options: argparse.Namespace) -> int:
    conditions = setup()
    learnwares: list[Learnware] = list(load_learnwares(options.learnwares))
    learnwares = keeping_base(learnwares) if options.kept else learnwares
    requests = read_requests(starters_of(learnwares), options.data, prompts_folder(options.data, options.prompts))
    requests = requests[::SHORT] if options.short else requests
    encoder = RememberingEncoder(load_prompt_encoder())
    by_stack = options.url is not None and not options.local
    if by_stack:
        chosen = await routed_by(options.url, [one.prompt for one in requests])
        ours = [Routed(one, name) for one, name in zip(requests, chosen, strict=True)]
    else:
        ours = routed(requests, OurRule(learnwares, encoder, SelectionSettings()))
    sample = sample_of(requests, BY_DOMAIN_SAMPLE)
    by_domain, always_base = ByDomain(learnwares, encoder), AlwaysBase()
    rules = {
        OURS: ours,
        by_domain.name: routed(sample, by_domain),
        always_base.name: routed(requests, always_base),
    }
    if options.choices is not None:
        write_choices(options.choices, rules)
    answers, base = None, ""
    if options.url is not None:
        base = options.base_model or await base_model_of(options.url)
        answers = KeptAnswers(options.url, options.answers)
        given = [(one.request.prompt, one.learnware) for found in rules.values() for one in found if one.learnware]
        await answers.fetch([(prompt, model) for prompt, name in given for model in (name, base)])
        if answers.too_long:
            print(f"{len(answers.too_long)} requests do not fit into the base model's context and are left out")
            rules = {
                name: [one for one in found if prompt_hash(one.request.prompt) not in answers.too_long]
                for name, found in rules.items()
            }
    scores = {} if options.scores is None else read_scores(options.scores)
    labels = {one.id: one.specified.answers.labels for one in learnwares if one.specified.answers is not None}
    verdicts = {name: judged(found, answers, base, labels, scores) for name, found in rules.items()}
    shares = report({name: (found, verdicts[name]) for name, found in rules.items()})
    conditions |= {"chosen_by": "stack" if by_stack else "here", "base_model": base, "answered": answers is not None}
    conditions |= {"scores": options.scores is not None, "short": options.short}
    details = {
        "intervals_95": {name: one.interval for name, one in shares.items() if one.rows},
        "rows": {name: one.rows for name, one in shares.items()},
        "harmed": {name: harmed(some, answers, base) for name, some in verdicts.items()},
    }
    write_result(options, result("harm", flat(shares), conditions, details))
    return 0
