"""Turns the scores of `benchmarks.market.choices` into figures with 95 % intervals (bootstrap over rows) and tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common.report import table
from benchmarks.common.statistics import Interval, Picks, percentile_interval, picks_of
from benchmarks.market.choices import WORDINGS, Columns, MarketScores, MeasuredMarket, Offered, Values

BINS = 10

KINDS = {"right": "accuracy", "gold": "likelihood"}


class Recovery(NamedTuple):
    """The quotient (chosen - random) / (oracle - random) over some tasks by both scores, each with its 95 % interval;
    `score` says which of them counts: accuracy where oracle and random differ significantly, else likelihood."""

    score: str
    accuracy: float
    accuracy_interval: Interval
    likelihood: float
    likelihood_interval: Interval

    @property
    def value(self) -> float:
        return self.accuracy if self.score == "accuracy" else self.likelihood

    @property
    def interval(self) -> Interval:
        return self.accuracy_interval if self.score == "accuracy" else self.likelihood_interval


def means(values: Sequence[Values], picks: Picks) -> Values:
    """Returns the mean over tasks, all of which count equally, and after it that of every drawing: (1 + drawings,)."""
    point = np.mean([rows.mean() for rows in values])
    drawn = np.mean([rows[drawn].mean(1) for rows, drawn in zip(values, picks, strict=True)], axis=0)
    return np.concatenate([[point], drawn])


def recovery(columns: Sequence[Columns], column: str) -> Recovery:
    """Returns the recovery of one column over some tasks."""
    picks = picks_of([len(one.right["base"]) for one in columns])

    def gap(kind: str, name: str) -> Values:
        tables = [getattr(one, kind) for one in columns]
        return means([found[name] - found["random"] for found in tables], picks)

    with np.errstate(invalid="ignore", divide="ignore"):  # not a number where oracle and random are the same
        ratios = {kind: gap(kind, column) / gap(kind, "oracle") for kind in KINDS}
    differs = percentile_interval(gap("right", "oracle")[1:])[0] > 0
    return Recovery(
        KINDS["right" if differs else "gold"],
        float(ratios["right"][0]),
        percentile_interval(ratios["right"][1:]),
        float(ratios["gold"][0]),
        percentile_interval(ratios["gold"][1:]),
    )


def calibration(confidence: Sequence[tuple[float, bool]]) -> tuple[float, list[tuple[float, float, int]]]:
    """Returns the expected calibration error over `BINS` bins of equally many rows, and the bins: stated, observed,
    rows."""
    rows = np.random.default_rng(0).permutation(np.array(confidence, float))  # equal ones must not lie by outcome
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    parts = [part for part in np.array_split(rows, BINS) if len(part)]
    bins = [(float(part[:, 0].mean()), float(part[:, 1].mean()), len(part)) for part in parts]
    total = sum(count for *_, count in bins)
    return sum(count * abs(stated - observed) for stated, observed, count in bins) / total, bins


def calibration_noise(confidence: Sequence[tuple[float, bool]]) -> float:
    """Returns the expected calibration error that as many rows give when every stated probability is exact."""
    stated = np.array([one for one, _ in confidence])
    generator = np.random.default_rng(0)
    drawn = [calibration(list(zip(stated, generator.random(len(stated)) < stated, strict=True)))[0] for _ in range(100)]
    return float(np.mean(drawn))


class MarketFigures(NamedTuple):
    """Flat figures, 95 % intervals of those that have one, and every recovery."""

    flat: dict[str, float]
    intervals: dict[str, Interval]
    recoveries: dict[str, Recovery]
    details: dict[str, Any]


def tasks_by_domain(market: MeasuredMarket) -> dict[str, list[str]]:
    return {d: [t for t, one in market.domains.items() if one == d] for d in sorted(set(market.domains.values()))}


def figures(market: MeasuredMarket, found: MarketScores, at: Mapping[int, Offered]) -> MarketFigures:
    """Returns all figures except those of prompts outside every learnware's domain."""
    recoveries = {}
    for domain, tasks in tasks_by_domain(market).items():
        seen, unseen = [found.columns[t] for t in tasks], [found.unseen[t] for t in tasks]
        recoveries[f"recovery_{domain}"] = recovery(seen, "per task")
        recoveries[f"recovery_{domain}_per_request"] = recovery(seen, "per request")
        recoveries[f"recovery_unseen_{domain}"] = recovery(unseen, "per task")
        for rule in (*found.rules, "best single"):
            recoveries[f"recovery_{domain} by {rule}"] = recovery(seen, rule)
    recoveries["recovery_unseen"] = recovery(list(found.unseen.values()), "per task")
    flat = {name: value.value for name, value in recoveries.items() if " by " not in name}
    intervals = {name: recoveries[name].interval for name in flat}

    picks = picks_of([len(one.right["base"]) for one in found.columns.values()])

    def share(name: str, rights: Mapping[str, Values], oracle: Mapping[str, Values]) -> None:
        ratio = means([rights[t] for t in found.columns], picks) / means([oracle[t] for t in found.columns], picks)
        flat[name], intervals[name] = float(ratio[0]), percentile_interval(ratio[1:])

    oracle = {t: one.right["oracle"] for t, one in found.columns.items()}
    share("score_vs_oracle_n100", {t: one.right["per request"] for t, one in found.columns.items()}, oracle)
    hindsight = {t: one.right["in hindsight"] for t, one in found.columns.items()}
    share("score_vs_hindsight_n100", {t: one.right["per request"] for t, one in found.columns.items()}, hindsight)
    for size, offered in sorted(at.items()):
        share(f"score_vs_oracle_n{size}", offered.rights, offered.oracle)
    for wording in ("bare", *WORDINGS):
        share(f"score_vs_oracle_{wording}", {t: rights[wording] for t, rights in found.wordings.items()}, oracle)
    flat["ece"] = calibration(found.confidence)[0]
    flat["ece_of_exact_probabilities"] = calibration_noise(found.confidence)
    beaten = beats_base(found)
    flat["beats_base_tasks"] = float(np.mean([one["routed"] > one["base"] for one in beaten.values()]))
    single = beats_best_single(market, found)
    flat["beats_best_single_domains"] = float(np.mean([one["difference"] > 0 for one in single.values()]))
    return MarketFigures(flat, intervals, recoveries, {"beats_base": beaten, "beats_best_single": single})


def beats_base(found: MarketScores) -> dict[str, dict[str, float]]:
    """Returns the accuracies on every task where some learnware is better than the base model, that is, where the
    oracle, chosen on other rows than it is scored on, exceeds the base."""
    rights = {
        task: {name: float(rows.mean()) for name, rows in one.right.items()} for task, one in found.columns.items()
    }
    return {
        task: {"base": one["base"], "routed": one["per request"], "oracle": one["oracle"]}
        for task, one in rights.items()
        if one["oracle"] > one["base"]
    }


def beats_best_single(market: MeasuredMarket, found: MarketScores) -> dict[str, dict[str, float]]:
    """Returns by domain the accuracy of the choice per request less that of the best single learnware, with its
    interval."""
    result = {}
    for domain, tasks in tasks_by_domain(market).items():
        columns = [found.columns[t].right for t in tasks]
        picks = picks_of([len(one["base"]) for one in columns])
        drawn = means([one["per request"] - one["best single"] for one in columns], picks)
        low, high = percentile_interval(drawn[1:])
        result[domain] = {"difference": float(drawn[0]), "low": low, "high": high}
    return result


def tables(market: MeasuredMarket, found: MarketScores, figures: MarketFigures) -> str:
    """Returns the printed tables: scores by domain and column, both ways, also of tasks without a learnware of their
    own; other wordings; recoveries by both scores; the figures."""
    domains = tasks_by_domain(market)
    columns = ("base", "random", "best single", *found.rules, "per task", "per request", "oracle", "in hindsight")
    lines = []
    kinds = (("right", "accuracy, %", 100), ("gold", "log-likelihood of the gold answer", 1))

    def rows(value: Callable[[str, str], Values], names: Sequence[str], scale: int) -> list[list[str]]:
        return [
            [
                f"{domain} ({len(tasks)} tasks)",
                *(f"{scale * np.mean([value(t, name).mean() for t in tasks]):.2f}" for name in names),
            ]
            for domain, tasks in domains.items()
        ]

    names = ("base", "random", "per task", "per request", "oracle")
    for kind, title, scale in kinds:
        seen = rows(lambda t, c, k=kind: getattr(found.columns[t], k)[c], columns, scale)
        lines.append(table([title, *columns], seen))
    for kind, title, scale in kinds:
        unseen = rows(lambda t, c, k=kind: getattr(found.unseen[t], k)[c], names, scale)
        lines.append(table([f"no learnware of its own: {title}", *names], unseen))
    wordings = ("whole", "bare", *WORDINGS)
    lines.append(table(["per request, accuracy, %", *wordings], rows(lambda t, w: found.wordings[t][w], wordings, 100)))
    shown = [
        [
            name,
            one.score,
            _with_interval(one.accuracy, one.accuracy_interval),
            _with_interval(one.likelihood, one.likelihood_interval),
        ]
        for name, one in figures.recoveries.items()
    ]
    lines.append(table(["(chosen - random) / (oracle - random)", "counts", "by accuracy", "by likelihood"], shown))
    lines.append(
        table(
            ["figure", "value", "95 %"],
            [
                [name, f"{value:.4f}", "{:.3f} to {:.3f}".format(*figures.intervals[name])]
                if name in figures.intervals
                else [name, f"{value:.4f}", ""]
                for name, value in figures.flat.items()
            ],
        )
    )
    not_beaten = [task for task, one in figures.details["beats_base"].items() if one["routed"] <= one["base"]]
    if not_beaten:
        lines.append(f"Not better than the base model, where some learnware is: {', '.join(not_beaten)}")
    return "\n\n".join(lines)


def _with_interval(value: float, interval: Interval) -> str:
    return f"{value:.3f} ({interval[0]:.2f} to {interval[1]:.2f})"
