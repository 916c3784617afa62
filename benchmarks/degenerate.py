"""Off the task: how often a learnware answers nonsense where its base model does not.

    python -m benchmarks.degenerate --out FOLDER [--learnwares FOLDER] [--before FOLDER] [--only NAME ...] [--json FILE]

Each learnware named <domain>-<task> answers requests that are not its task, greedily, `MAX_TOKENS` tokens at most:
`questions` (free questions that want sentences, of all domains), `asks` (other asks on rows of its own test split) and
`everyday` (the half of the project's everyday prompts that training does not rehearse). Counted are answers that are
degenerate (`specs.degenerate`) where the base model's answer to the same request is not; `drift` is the mean
log-likelihood a token (nats) that the learnware gives the base's own answer, less the base's.

`--before` holds older adapters of the same names, trained otherwise: both are scored on the task itself, paired by row
(exact McNemar test), on at most `OWN_ROWS` test rows. What the older ones do off it, another run of theirs says.

What is measured is kept in FOLDER by the adapter's hash: called again, it goes on.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.questions_sets import material_of, read_harm_prompts, read_other_asks
from benchmarks.report import add_json_option, setup, table, write_json
from benchmarks.tasks import add_data_option, task_of
from serving.paths import cache_folder
from serving.training.generation import MAX_TOKENS, base_answers, verified_answers, weights_fingerprint
from serving.training.matrix_command import sampled
from serving.training.rows import encode_prompt, read_rows, rows_kind
from serving.training.scoring import BASE, MAX_LENGTH, Scorer
from serving.training.statistics import Estimate, compare, estimate
from specs.adapter import adapter_hash
from specs.degenerate import is_degenerate, is_degenerate_beside
from specs.errors import InvalidInput
from specs.prompts import MEASURED, everyday_prompts, half

EVERYDAY = 80
ROWS_AN_ASK = 2
OWN_ROWS = 200
SEED = 5


class Request(NamedTuple):
    """One request off a learnware's task, and the set that it belongs to."""

    kind: str
    prompt: str


def requests(starter: str, prompts: Sequence[str]) -> list[Request]:
    """What is asked of this learnware; `prompts` are those of its task's test rows."""
    generator = random.Random(SEED)
    questions = [Request("questions", one.prompt) for one in read_harm_prompts()]
    asks = [ask for ask in read_other_asks() if ask.starters is None or ask.fits(starter)]
    asks *= ROWS_AN_ASK
    rows = generator.sample(list(prompts), min(len(prompts), len(asks)))
    asked = [
        Request("asks", ask.around(material_of(starter, rows[number % len(rows)]))) for number, ask in enumerate(asks)
    ]
    everyday = generator.sample(half(everyday_prompts(), MEASURED), EVERYDAY)
    return [*questions, *asked, *(Request("everyday", prompt) for prompt in everyday)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder where answers are kept")
    parser.add_argument("--before", type=Path, default=None, help="folder of older adapters of the same names")
    parser.add_argument("--only", nargs="+", default=None, help="names of learnwares (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    add_json_option(parser)
    options = parser.parse_args(arguments)
    import torch

    from serving.base_model import EMBEDDED, base_model_id, ensure_base_model

    if options.data is None:
        raise InvalidInput("where are the tasks? give --data, or set LEARNWARE_DATA")
    torch.set_num_threads(options.threads)
    names = sorted(path.parent.name for path in options.learnwares.glob("*/adapter_config.json"))
    names = [name for name in names if options.only is None or name in options.only]
    base = ensure_base_model(EMBEDDED, cache_folder(), print)
    begun, base_id = setup(), base_model_id(EMBEDDED)
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        found[name] = measure(name, options.learnwares / name, options.data, base, base_id, options.out)
        if options.before is not None and (options.before / name).is_dir():
            folders = {"before": options.before / name, "after": options.learnwares / name}
            found[name]["own_task"] = own_task(name, folders, options.data, base, base_id, options.out)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    print(as_table(found))
    write_json(options.json, {"setup": begun, "figures": found})
    return 0


def measure(name: str, folder: Path, data: Path, base: Path, base_id: str, out: Path) -> dict[str, Any]:
    """The figures of one learnware, by kind of request and over all."""
    task = read_rows(data / f"{task_of(name)}.test.jsonl")
    labels = {answer for row in task for answer in row.candidates()}
    asked = requests(name, [row.prompt for row in task])
    cell = out / f"{adapter_hash(folder)[:16]}.json"
    if cell.exists() and len(kept := json.loads(cell.read_text(encoding="utf-8"))["answers"]) == len(asked):
        return summary(asked, kept)
    scorer = Scorer(base, base_id, {name: folder}, out)
    prompts = [encode_prompt(request.prompt, scorer.tokenizer, MAX_LENGTH) for request in asked]
    with scorer.using(BASE):
        own = base_answers(
            scorer.model, scorer.tokenizer, prompts, weights_fingerprint(base), cache_folder(), MAX_TOKENS
        )
    with scorer.using(name):
        drafts = [answer.tokens for answer in own]
        verified = verified_answers(scorer.model, scorer.tokenizer, prompts, drafts, MAX_TOKENS, stop_loops=True)
    answers = []
    for said, first in zip(verified, own, strict=True):
        text, before = said.answer.text(scorer.tokenizer), first.text(scorer.tokenizer)
        answers.append(
            {
                "text": text,
                "degenerate": is_degenerate_beside(text, before, labels),
                "base": is_degenerate(before),
                "drift": (said.draft_log_likelihood - first.log_likelihood) / max(1, len(first.tokens)),
            }
        )
    cell.parent.mkdir(parents=True, exist_ok=True)
    cell.write_text(json.dumps({"learnware": name, "answers": answers}, ensure_ascii=False), encoding="utf-8")
    return summary(asked, answers)


def own_task(name: str, folders: Mapping[str, Path], data: Path, base: Path, base_id: str, out: Path) -> dict[str, Any]:
    """Accuracy (of labels) or log-likelihood a token (of sentences) on the task itself, after less before."""
    rows = sampled(read_rows(data / f"{task_of(name)}.test.jsonl"), OWN_ROWS).rows
    scorer = Scorer(base, base_id, dict(folders), out / "cells")
    scores = {when: scorer.score(rows, when, lambda _: None) for when in folders}
    if rows_kind(rows) == "text":
        likelihoods = {when: [one.gold_log_likelihood for one in some] for when, some in scores.items()}
        pairs = zip(likelihoods["after"], likelihoods["before"], strict=True)
        return {"rows": len(rows), "difference": rounded(estimate([a - b for a, b in pairs]))}
    right = {when: [one.right for one in some] for when, some in scores.items()}
    comparison = compare(right["after"], right["before"])
    return {
        "rows": len(rows),
        **{when: round(sum(some) / len(rows), 4) for when, some in right.items()},
        "difference": rounded(comparison.difference),
        "mcnemar_p": float(f"{comparison.p:.2g}"),
    }


def as_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a learnware: degenerate answers by kind of request, drift, and its own task, before → after."""
    lines = []
    for name, one in found.items():
        line = [f"`{name}`", str(one["all"]["requests"]), f"{100 * one['all']['base']:.1f}"]
        line += [f"{100 * one[kind]['degenerate']['mean']:.1f}" for kind in ("all", "questions", "asks", "everyday")]
        own = one.get("own_task", {})
        line += [
            f"{one['all']['drift']:+.3f}",
            f"{100 * own['before']:.1f} → {100 * own['after']:.1f}" if "before" in own else "–",
            str(own.get("mcnemar_p", "–")),
        ]
        lines.append(line)
    header = [
        "learnware",
        "requests",
        "base, %",
        "alone, %",
        "questions",
        "asks",
        "everyday",
        "drift",
        "own task, %",
        "p",
    ]
    return table(header, lines)


def summary(asked: Sequence[Request], answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By kind of request, and for `all`: the share that is degenerate where the base's answer is not."""
    kinds = {"all": list(answers)}
    for request, answer in zip(asked, answers, strict=True):
        kinds.setdefault(request.kind, []).append(answer)
    return {
        kind: {
            "requests": len(some),
            "base": round(sum(one["base"] for one in some) / len(some), 4),
            "degenerate": rounded(estimate([one["degenerate"] for one in some])),
            "drift": round(sum(one["drift"] for one in some) / len(some), 4),
        }
        for kind, some in kinds.items()
    }


def rounded(value: Estimate) -> dict[str, float]:
    return {key: round(number, 4) for key, number in value._asdict().items()}


if __name__ == "__main__":
    raise SystemExit(main())
