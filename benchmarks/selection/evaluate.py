"""Measures whether requests get what they ask for: the right learnware, or the base model where none answers them.

    python -m benchmarks.selection --data DATA [--prompts FOLDER]    figures (`benchmarks.selection.figures` names them)
    python -m benchmarks.selection --data DATA --scores FILE         and the scores of base, routed, best single, oracle
    python -m benchmarks.selection --data DATA --tune                thresholds, on train rows and texts to tune on

Cases are the test rows of the starters' tasks as they are, reworded, wrapped, under system prompts and in
conversations; other asks on their material; users' questions with labels given by hand; everyday work
(`benchmarks.common.cases`). Of texts of our own the half that nothing was tuned on counts. The rule is put together as
the router does it, over the starters as they lie in the project; a running market has measured them as well
(`--kept` stands for that).

Beside the rule stand two that need none (always the base model; the nearest material, whatever is asked) and the rule
with parts of it switched off (`benchmarks.common.choosers`). Intervals are 95 %, Wilson's.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.cases import Case, Starters, make_cases, prompts_folder, starters_of
from benchmarks.common.choosers import (
    AlwaysBase,
    ByDomain,
    Chooser,
    OurRule,
    RememberingEncoder,
    keeping_base,
    with_parts_off,
)
from benchmarks.common.questions import Half, read_users_questions
from benchmarks.common.report import add_output_options, result, setup, table, write_result
from benchmarks.common.scores import Scores, evaluate, read_scores
from benchmarks.common.statistics import lines_of, percent
from benchmarks.common.tasks import add_data_option, read_questions_of
from benchmarks.selection.figures import ChoiceFigures, ChoiceOutcome, by_key, outcomes_of, time_choices, worst
from router.settings import SelectionSettings
from specs.encoding.ask_encoder import load_ask_encoder
from specs.encoding.encoder import STATIC_ENCODER, PromptEncoder, load_encoder, load_prompt_encoder
from specs.errors import InvalidInput, LearnwareError
from specs.learnware import Learnware, load_learnwares

TUNED = (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
"""Values of `min_match` that `--tune` compares."""
COMPARED = (
    "task_accuracy",
    "reworded_right_task",
    "other_ask_to_label",
    "explanation_stays_with_label",
    "questions_get_theirs",
    "questions_of_none_to_base",
    "questions_wrong_domain",
    "questions_to_label",
    "everyday_to_base",
    "multiple_choice_to_base",
    "system_instruction_found",
)
"""Figures by which rules are compared side by side."""
TIMED_QUESTIONS = 300
TABLES = {
    "reworded": "reworded: right task, by starter",
    "other_ask": "other asks: not to a learnware that labels, by ask",
    "explain": "explanations: not with a learnware that labels, by wording",
    "wrapped_hold": "wrapped: same choice as without, by wrapper",
    "wrapped_hold_or_base": "retrieval: same choice as without, by template",
    "wrapped_base": "interface tasks: to the base model, by task",
    "system_instruction": "instruction in the system prompt: found, by starter",
}
WORST_SHOWN = 8


def tables_of(outcomes: Sequence[ChoiceOutcome], starters: Starters) -> dict[str, dict[str, list[float]]]:
    """Returns shares by key of the groups in `TABLES`, and of whole and bare rows by task: [share, rows]."""

    def holds(one: ChoiceOutcome) -> bool:
        if one.case.group in ("other_ask", "explain"):
            return one.chosen is None or one.chosen in starters.in_sentences
        if one.case.group in ("wrapped_hold", "wrapped_hold_or_base"):
            return one.is_kept
        return one.is_right if one.case.group != "wrapped_base" else one.chosen is None

    return {
        group: {key: [one.value, float(one.rows)] for key, one in worst(by_key(outcomes, group, holds))}
        for group in ("whole", "bare", "users", "own", *TABLES)
    }


def latency(rule: OurRule, prompts: Path | None, short: bool) -> dict[str, float]:
    """Returns the milliseconds of one choice from a text, with asks that were never seen and again with known ones: by
    the clock, and of processor time, which leaves out what other processes took."""
    if prompts is not None:
        texts = [one.prompt for one in read_users_questions(prompts)]
    else:
        texts = [text for some in read_questions_of(("finance", "healthcare", "mathematics")).values() for text in some]
    texts = texts[: TIMED_QUESTIONS // (4 if short else 1)]
    selector = rule.selector
    encoder = PromptEncoder(load_encoder(STATIC_ENCODER), load_ask_encoder())  # remembers nothing yet
    encoder.encode(["The first one is slower: the runtime sets itself up."])

    def choose(text: str) -> object:
        return selector.choose_embedded(encoder.encode([text])[0])

    new = time_choices(choose, texts)
    known = time_choices(choose, texts)
    return {
        f"choice_{name}{key}_ms": value
        for name, found in (("", known), ("new_ask_", new))
        for key, value in found.items()
    }


def tune(learnwares: Sequence[Learnware], cases: Sequence[Case], encoder: RememberingEncoder) -> None:
    """Prints the figures on the half that may be tuned on, for each value of `min_match` in `TUNED`."""
    rows = []
    for min_match in TUNED:
        settings = SelectionSettings(min_match=min_match)
        rule = OurRule(learnwares, encoder, settings)
        figures = ChoiceFigures(outcomes_of(cases, rule), starters_of(learnwares))
        rows.append([f"{min_match:.2f}", *(percent(figures.shares[name]) for name in COMPARED)])
        print(" | ".join(rows[-1]), flush=True)
    print("\nOn train rows and the half of our own texts to tune on (%), by min_match:\n")
    print(table(["min_match", *COMPARED], rows))


def other_rules(
    learnwares: Sequence[Learnware], cases: Sequence[Case], encoder: RememberingEncoder, rule: OurRule
) -> dict[str, ChoiceFigures]:
    """Returns the figures of the two baselines and of the rule with parts switched off."""
    starters = starters_of(learnwares)
    rules: list[Chooser] = [AlwaysBase(), ByDomain(learnwares, encoder)]
    found = {one.name: ChoiceFigures(outcomes_of(cases, one), starters) for one in rules}
    for changed in with_parts_off(learnwares, encoder, SelectionSettings(), rule.follow_ups):
        found[changed.name] = ChoiceFigures(outcomes_of(cases, changed), starters)
        print(f"measured: {changed.name}", flush=True)
    return found


def report(
    figures: ChoiceFigures, others: dict[str, ChoiceFigures], tables: dict[str, Any], scores: Scores | None
) -> None:
    print(table(["figure (%)", "value", "95 % interval", "rows"], lines_of(figures.shares)), end="\n\n")
    compared = [
        [name, *(percent(one.shares[figure]) for figure in COMPARED)]
        for name, one in {"auto": figures, **others}.items()
    ]
    print(table(["rule (%)", *COMPARED], compared), end="\n\n")
    tasks = [
        [name, f"{100 * value:.1f}", f"{100 * tables['bare'][name][0]:.1f}" if name in tables["bare"] else "–"]
        for name, (value, _) in tables["whole"].items()
    ]
    print(table(["starter: its rows chosen (%)", "whole", "bare"], tasks), end="\n\n")
    for group, title in TABLES.items():
        shown = [[key, f"{100 * v:.1f}", f"{n:.0f}"] for key, (v, n) in list(tables[group].items())[:WORST_SHOWN]]
        print(table([f"{title} (%), worst first", "share", "rows"], shown), end="\n\n")
    if scores is None:
        print("No score matrix was given (--scores): no score_vs_oracle.")
        return
    kinds = ("base", "best_single", "routed", "oracle")
    rows = [[task, *(f"{100 * found[kind]:.1f}" for kind in kinds)] for task, found in scores.by_task.items()]
    rows.append(["mean", *(f"{100 * getattr(scores, kind):.1f}" for kind in kinds)])
    print(table(["accuracy (%)", "base", f"best single ({scores.best_single_id})", "routed", "oracle"], rows))


def scored(path: Path, outcomes: Sequence[ChoiceOutcome]) -> Scores:
    """Returns the scores of the choices for whole rows, which must be all of a task's test rows."""
    chosen: dict[str, list[str | None]] = {}
    for one in outcomes:
        if one.case.group == "whole":
            chosen.setdefault(one.case.key, []).append(one.chosen)
    matrix = {task: found for task, found in read_scores(path).items() if task in chosen}
    return evaluate(matrix, chosen)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__.split("\n")[0])
    add_data_option(parser)
    parser.add_argument(
        "--prompts",
        type=Path,
        help="folder of users_questions.jsonl and finance_questions.txt (default: beside the task data, if there)",
    )
    parser.add_argument("--scores", type=Path, help="score matrix, from `learnware-serving matrix`")
    parser.add_argument("--tune", action="store_true", help="only compare thresholds, on what may be tuned on")
    parser.add_argument("--short", action="store_true", help="about a fourth of the cases")
    parser.add_argument("--no-other-rules", action="store_true", help="leave out other rules and parts switched off")
    parser.add_argument(
        "--kept",
        action="store_true",
        help="take learnwares to keep the base model's behaviour off their tasks, as if a market had measured that",
    )
    add_output_options(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    if options.data is None:
        print("benchmarks.selection needs the task data: --data FOLDER, or LEARNWARE_DATA", file=sys.stderr)
        return 2
    try:
        if options.scores is not None and options.short:
            raise InvalidInput("--scores needs every test row: leave --short out")
        learnwares = load_learnwares(options.learnwares)
        return _measure(options, keeping_base(learnwares) if options.kept else learnwares)
    except LearnwareError as error:
        print(f"benchmarks.selection: {error}", file=sys.stderr)
        return 1


def _measure(options: argparse.Namespace, learnwares: Sequence[Learnware]) -> int:
    half: Half = "tune" if options.tune else "report"
    prompts = prompts_folder(options.data, options.prompts)
    starters, settings = starters_of(learnwares), SelectionSettings()
    conditions: dict[str, Any] = setup()
    encoder = RememberingEncoder(load_prompt_encoder())
    cases = make_cases(starters, options.data, prompts, half, options.short)
    if options.tune:
        tune(learnwares, cases, encoder)
        return 0
    rule = OurRule(learnwares, encoder, settings)
    times = latency(rule, prompts, options.short)
    outcomes = outcomes_of(cases, rule)
    figures, tables = ChoiceFigures(outcomes, starters), tables_of(outcomes, starters)
    others = {} if options.no_other_rules else other_rules(learnwares, cases, encoder, rule)
    scores = None if options.scores is None else scored(options.scores, outcomes)
    report(figures, others, tables, scores)
    print("\n" + table(["choice, ms", "value"], [[name, f"{value:.2f}"] for name, value in times.items()]))
    flat = figures.flat() | times
    if scores is not None:
        flat["score_vs_oracle"] = scores.routed / scores.oracle
    details = {
        "intervals_95": {name: one.interval for name, one in figures.shares.items() if one.rows},
        "rows": {name: one.rows for name, one in figures.shares.items()},
        "rules": {name: one.flat() for name, one in others.items()},
        "by_key": tables,
        "missed": {name: missed for name in figures.shares if (missed := figures.missed(name))},
        "scores": None if scores is None else scores._asdict(),
    }
    conditions |= {
        "encoder": encoder.id,
        "learnwares": list(starters.ids),
        "settings": settings.model_dump(mode="json"),
        "half": half,
        "users_questions": prompts is not None,
        "short": options.short,
        "kept": options.kept,
    }
    write_result(options, result("selection", flat, conditions, details))
    return 0
