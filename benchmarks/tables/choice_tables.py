"""Tables of the choice's benchmarks: routing, selection, harm, market and privacy."""

from collections.abc import Mapping, Sequence
from statistics import mean

from benchmarks.tables.cells import (
    FINE,
    HUNDREDTHS,
    NOT_MEASURED,
    PERCENT,
    TENTHS,
    THOUSANDTHS,
    Form,
    Quantity,
    Result,
    Results,
    Table,
    at_least,
    at_most,
    text,
    with_interval,
)

# -- routing

ROUTING = (
    ("choice, p50, ms", "route_p50_ms", HUNDREDTHS),
    ("choice, p99, ms", "route_p99_ms", HUNDREDTHS),
    ("choice, processor time, p50, ms", "route_cpu_p50_ms", HUNDREDTHS),
    ("choice, processor time, p99, ms", "route_cpu_p99_ms", HUNDREDTHS),
    ("recall of the index", "index_recall", FINE),
    ("first fit, s", "build_s", TENTHS),
)
ROUTING_CHANGES = (
    ("recall of the index after changes", "index_recall_changed", FINE),
    ("a new learnware is chosen after, s", "add_visible_s", HUNDREDTHS),
    ("p99.9 wait of a choice beside additions, ms", "add_wait_p999_ms", TENTHS),
    ("the same without additions, ms", "control_wait_p999_ms", TENTHS),
    ("new fit, s", "rebuild_s", TENTHS),
    ("p99.9 wait of a choice beside a new fit, ms", "rebuild_wait_p999_ms", TENTHS),
    ("longest wait of a choice beside a new fit, ms", "rebuild_wait_max_ms", TENTHS),
)


def routing(results: Results) -> Table:
    """Shows the time of a choice and the recall of the index by the number of learnwares."""
    return _by_count(results.of("routing"), ROUTING)


def routing_changes(results: Results) -> Table:
    """Shows what changes of the market cost; smaller markets are fitted anew each time and are left out."""
    return _by_count(results.of("routing"), ROUTING_CHANGES)


def _by_count(result: Result, lines: Sequence[tuple[str, str, Form]]) -> Table:
    counts = [n for n in result.details["counts"] if any(f"{figure}_n{n}" in result.figures for _, figure, _ in lines)]
    rows = [[title, *(result.cell(f"{figure}_n{n}", form) for n in counts)] for title, figure, form in lines]
    return Table(["learnwares", *(f"{n:,}" for n in counts)], rows, result.source)


# -- selection

TASK_AIM, REWORDED_AIM = at_least(0.995), at_least(0.95)
LOST_AIM = at_most(0.10)
SELECTION: Sequence[tuple[str, Sequence[Quantity]]] = (
    (
        "prompts as they are: right task / right domain",
        [Quantity("task_accuracy", PERCENT, TASK_AIM), Quantity("domain_accuracy", PERCENT, at_least(0.999))],
    ),
    (
        "asks in other words: right task (labels / sentences)",
        [
            Quantity("reworded_right_task_labelling", PERCENT, REWORDED_AIM),
            Quantity("reworded_right_task_sentences", PERCENT, REWORDED_AIM),
        ],
    ),
    (
        "another ask on a learnware's material goes to one that labels",
        [Quantity("other_ask_to_label", PERCENT, at_most(0.03))],
    ),
    (
        "questions that ask for what a starter explains get it",
        [Quantity("questions_get_theirs", PERCENT, at_least(0.60))],
    ),
    (
        "the same by starter: xbrl_term / medquad_qa / gsm8k_solution",
        [
            Quantity("questions_get_theirs_xbrl_term", PERCENT),
            Quantity("questions_get_theirs_medquad_qa", PERCENT),
            Quantity("questions_get_theirs_gsm8k_solution", PERCENT),
        ],
    ),
    (
        "other questions go to the base model",
        [Quantity("questions_of_none_to_base", PERCENT, at_least(0.95))],
    ),
    (
        "the same: users' / our own",
        [Quantity("questions_of_none_to_base_users", PERCENT), Quantity("questions_of_none_to_base_own", PERCENT)],
    ),
    (
        "questions to a learnware of a wrong domain / to one that labels",
        [
            Quantity("questions_wrong_domain", PERCENT, at_most(0.01)),
            Quantity("questions_to_label", PERCENT, at_most(0.01)),
        ],
    ),
    (
        "to the base model: everyday work / other multiple choice",
        [
            Quantity("everyday_to_base", PERCENT, at_least(0.985)),
            Quantity("multiple_choice_to_base", PERCENT, at_least(0.985)),
        ],
    ),
    ("kept under four neutral system prompts", [Quantity("neutral_system_kept", PERCENT, at_least(0.98))]),
    ("instruction in the system prompt found", [Quantity("system_instruction_found", PERCENT)]),
    ('lost by "Answer:"', [Quantity("lost_answer_cue", PERCENT, LOST_AIM)]),
    ("lost by lower case", [Quantity("lost_lower_case", PERCENT, LOST_AIM)]),
    ("lost by three typos", [Quantity("lost_three_typos", PERCENT, LOST_AIM)]),
    ('lost by "Please help me with this."', [Quantity("lost_please_help", PERCENT, LOST_AIM)]),
    ('lost by "Thanks!"', [Quantity("lost_thanks", PERCENT, LOST_AIM)]),
    (
        "a request for an explanation stays with a learnware that labels",
        [Quantity("explanation_stays_with_label", PERCENT, at_most(0.03))],
    ),
    ("front ends' own tasks (titles, tags) to the base model", [Quantity("interface_task_to_base", PERCENT)]),
    (
        "content without any ask: right task / to the base model",
        [Quantity("task_accuracy_bare", PERCENT), Quantity("in_domain_to_base_bare", PERCENT)],
    ),
)
"""Title, quantities."""


def selection(results: Results) -> Table:
    """Shows how often requests get the right learnware, or the base model where none answers them."""
    result = results.of("selection")
    rows = [
        [title, result.values(quantities), result.intervals(quantities), result.aims(quantities)]
        for title, quantities in SELECTION
    ]
    return Table(["", "measured", "95 %", "aim"], rows, result.source)


COMPARED = (
    ("prompts as they are: right task", "task_accuracy"),
    ("asks in other words: right task", "reworded_right_task"),
    ("another ask to a learnware that labels", "other_ask_to_label"),
    ("an explanation stays with a learnware that labels", "explanation_stays_with_label"),
    ("questions get the starter that explains it", "questions_get_theirs"),
    ("other questions to the base model", "questions_of_none_to_base"),
    ("questions to a wrong domain", "questions_wrong_domain"),
    ("questions to a learnware that labels", "questions_to_label"),
    ("everyday work to the base model", "everyday_to_base"),
    ("other multiple choice to the base model", "multiple_choice_to_base"),
    ("instruction in the system prompt found", "system_instruction_found"),
)


def selection_rules(results: Results) -> Table:
    """Compares the rule to two simple ones, and to itself with parts switched off."""
    result = results.of("selection")
    rules: Mapping[str, Mapping[str, float]] = {"the rule": result.figures, **result.details["rules"]}
    rows = [[title, *(text(found.get(figure), PERCENT) for found in rules.values())] for title, figure in COMPARED]
    return Table(["", *rules], rows, result.source)


# -- harm

HARM_RULES = (("`auto`", ""), ("by domain alone", "by_domain_alone_"), ("always the base model", "always_base_"))


def harm(results: Results) -> Table:
    """Shows how often a routed request got a degenerate answer where the base model's was not."""
    result = results.of("harm")
    return Table(
        ["free-form requests", "requests", "go to a learnware (95 %)", "answers of learnwares", "harmed (95 %)"],
        [_harm_row(result, title, prefix) for title, prefix in HARM_RULES],
        result.source,
    )


def _harm_row(result: Result, title: str, prefix: str) -> list[str]:
    def share(name: str) -> str:
        known = result.details["intervals_95"].get(prefix + name)
        return with_interval(result.figures.get(prefix + name), known, PERCENT)

    def rows(name: str) -> str:
        count = result.details["rows"].get(prefix + name)
        return NOT_MEASURED if count is None else f"{count}"

    return [title, rows("routed_share"), share("routed_share"), rows("harm_share"), share("harm_share")]


# -- market

DOMAINS = ("finance", "healthcare", "mathematics")
MARKET: Sequence[tuple[str, Quantity]] = (
    *(
        (
            f"{domain}: (chosen − random) / (oracle − random), {how}",
            Quantity(f"recovery_{prefix}{domain}{suffix}", HUNDREDTHS),
        )
        for domain in DOMAINS
        for how, prefix, suffix in (
            ("per task", "", ""),
            ("per request", "", "_per_request"),
            ("no learnware of its own", "unseen_", ""),
        )
    ),
    *(
        (f"score over the oracle's, {count:,} learnwares", Quantity(f"score_vs_oracle_n{count}", HUNDREDTHS))
        for count in (10, 100, 1000, 10000)
    ),
    ("score over the best in hindsight, 100 learnwares", Quantity("score_vs_hindsight_n100")),
    ("score over the oracle's, prompts without their instruction", Quantity("score_vs_oracle_bare")),
    ("calibration error of the stated confidence", Quantity("ece", THOUSANDTHS)),
    ("the same if every stated probability were exact", Quantity("ece_of_exact_probabilities", THOUSANDTHS)),
    (
        "tasks on which the choice beats the base model, where some learnware does",
        Quantity("beats_base_tasks", PERCENT),
    ),
    ("foreign chat to the base model", Quantity("ood_to_base_chat", PERCENT)),
    ("foreign multiple choice to the base model", Quantity("ood_to_base_mc", PERCENT)),
    ("requests of the market's tasks to the base model", Quantity("in_domain_to_base", PERCENT)),
)


def market(results: Results) -> Table:
    """Shows what the choice among a market's learnwares is worth."""
    result = results.of("market_selection")
    rows = [[title, result.values([one]), result.intervals([one])] for title, one in MARKET]
    return Table(["", "measured", "95 %"], rows, result.source)


def market_rules(results: Results) -> Table:
    """Compares rules of choice by their answers' accuracy, the mean over a domain's tasks."""
    result = results.of("market_selection")
    by_task: Mapping[str, Mapping[str, float]] = result.details["by_task"]
    tasks = {domain: [task for task in by_task if task.startswith(f"{domain}-")] for domain in DOMAINS}
    rules = list(next(iter(by_task.values())))
    rows = [
        [rule, *(text(mean(by_task[task][rule] for task in tasks[domain]), PERCENT) for domain in DOMAINS)]
        for rule in rules
    ]
    header = ["accuracy of the answers, by rule", *(f"{domain} ({len(tasks[domain])} tasks)" for domain in DOMAINS)]
    return Table(header, rows, result.source)


# -- privacy

PRIVACY_ROWS = ("100", "200")


def privacy(results: Results) -> Table:
    """Shows the best membership attack on each kind of specification, and what the choice loses."""
    result = results.of("privacy")
    attacks, costs = result.details["attacks"], result.details["costs"]
    recipes = [name for name in attacks[PRIVACY_ROWS[-1]] if all(name in attacks[n] for n in PRIVACY_ROWS)]
    rows = []
    for recipe in recipes:
        found = [attacks[n][recipe] for n in PRIVACY_ROWS]
        aucs = [with_interval(one["auc"], one["interval_95"]) for one in found]
        right = [text(_right(costs[n], recipe), PERCENT) for n in PRIVACY_ROWS]
        rows.append([recipe, *aucs, _bound(result, recipe), *right])
    header = ["specification of a task", *(f"AUC of the best attack, {n} rows (95 %)" for n in PRIVACY_ROWS)]
    header += ["AUC that μ allows", *(f"right of all tasks, {n} rows" for n in PRIVACY_ROWS)]
    return Table(header, rows, result.source)


def _right(costs: Mapping[str, Mapping[str, Mapping[str, float]]], recipe: str) -> float | None:
    return costs[recipe]["all tasks"]["chosen"] if recipe in costs else None


def _bound(result: Result, recipe: str) -> str:
    """Returns the largest AUC that the recipe's privacy allows; an empty string without noise."""
    _, found, mu = recipe.partition(", mu ")
    allowed = result.details["largest_auc_that_mu_allows"]
    return text(allowed[mu.split()[0]]) if found else ""
