"""Measures the router's own time for one request by number of learnwares, and the recall of the index.

    python -m benchmarks.routing [--counts 12 100 1000 10000] [--short] [--json FILE]

One thread. Text in, choice out, the encoder included: what a router replica does between reading a request and
answering the edge; with asks that were seen before, as most are, and beside that (`route_new_ask_…`) with asks that go
through the transformer. More than the starter learnwares are made from them by resampling: a part of one's reduced
points, each moved towards a random point of another, so that all are distinct and lie as densely as real neighbours.
Recall@1 compares the index's nearest learnware with the exact one, for real texts and for vectors near the points of
the resampled learnwares.

In large markets learnwares are then added one at a time beside requests (`benchmarks.routing.living_market`).
"""

import argparse
import gc
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.report import add_output_options, result, setup, table, write_result
from benchmarks.common.tasks import DOMAINS, add_data_option, read_prompts, read_questions_of, task_of
from benchmarks.routing.living_market import figures as living_figures, measure_additions, named
from router.index.index import SpecificationIndex
from router.selection import Selector
from router.settings import SelectionSettings
from router.snapshot import ALWAYS_REBUILT
from specs.encoding.ask_encoder import load_ask_encoder
from specs.encoding.encoder import STATIC_ENCODER, PromptEncoder, load_encoder, load_prompt_encoder
from specs.errors import InvalidInput, LearnwareError
from specs.learnware import Learnware, load_learnwares
from specs.specification import View

THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
COUNTS = (12, 100, 1000, 10_000)
RESAMPLED_POINTS = 60
"""Number of points of a resampled learnware. A starter learnware has about 120; half of them keep 10,000 specifications
in memory (0.6 GB as float16) on a small machine."""
MOVED = (0.2, 0.5)
"""Range of the points' move towards the other learnware's point, as a share of the way."""
RECALL_NOISE = 0.3
"""Length of the random step from a unit-norm reduced point to a probe near it, about the distance between a prompt and
its nearest reduced point."""
ROUNDS, PROBES, ADDED = 2000, 2000, 40
SHORT_ROUNDS, SHORT_PROBES, SHORT_ADDED, SHORT_NEW_ASKS = 500, 400, 10, 80
CHANGED_SHARE = 0.02
"""Share of the learnwares that are removed, and as many added, before recall is measured again."""

Matrix = NDArray[np.float32]


def resample(starters: Sequence[Learnware], count: int, seed: int = 0) -> list[Learnware]:
    """Returns `count` learnwares: the starters themselves, then distinct ones made from them (see the module's
    docstring)."""
    generator = np.random.default_rng(seed)
    sets = [learnware.specified.whole_set for learnware in starters]
    made = list(starters[:count])
    for number in range(len(made), count):
        parent = int(generator.integers(len(starters)))
        other = (parent + int(generator.integers(1, len(starters)))) % len(starters)
        points, weights = sets[parent]
        kept = generator.choice(len(points), min(RESAMPLED_POINTS, len(points)), replace=False)
        towards = sets[other].points[int(generator.integers(len(sets[other].points)))]
        share = generator.uniform(*MOVED)
        moved = (1 - share) * points[kept] + share * towards
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        view = View("whole", len(kept), moved.astype(np.float16), weights[kept] / weights[kept].sum())
        original = starters[parent].specified
        specification = replace(original, views=(view,), declined=None)
        made.append(replace(starters[parent], id=f"resampled-{number}", specification=specification))
    return made


def request_texts(learnwares: Sequence[Learnware], options: argparse.Namespace) -> list[str]:
    """Returns the project's questions, and the first test prompts of each task where the data is available."""
    texts = [text for questions in read_questions_of([*DOMAINS, "general"]).values() for text in questions]
    if options.data is not None:
        for learnware in learnwares:
            texts += read_prompts(options.data, task_of(learnware.id), "test", 40).whole
    return texts


def time_choices(selector: Selector, texts: Sequence[str], rounds: int) -> NDArray[np.float64]:
    """Returns the milliseconds of each of `rounds` choices over the texts in a fixed random order, (rounds, 2): by the
    clock, and of processor time, which leaves out what other processes on the machine took. The texts' asks are known
    when they were encoded before."""
    order = np.random.default_rng(0).permutation(rounds) % len(texts)
    for number in order[:50]:
        selector.choose(texts[number])
    taken = np.empty((rounds, 2))
    for turn, number in enumerate(order):
        started, busy = time.perf_counter(), time.thread_time()
        selector.choose(texts[number])
        taken[turn] = time.perf_counter() - started, time.thread_time() - busy
    return taken * 1000


def time_new_asks(selector: Selector, texts: Sequence[str]) -> dict[str, float]:
    """Returns the milliseconds of one choice for a text whose ask was never seen, p50 and p99 by the clock and of
    processor time. The texts must differ."""
    encoder = PromptEncoder(load_encoder(STATIC_ENCODER), load_ask_encoder())  # remembers nothing yet
    encoder.encode(["The first one is slower: the runtime sets itself up."])

    taken = np.empty((len(texts), 2))
    for row, text in enumerate(texts):
        started, busy = time.perf_counter(), time.thread_time()
        selector.choose_embedded(encoder.encode([text])[0])
        taken[row] = time.perf_counter() - started, time.thread_time() - busy
    (p50, busy_p50), (p99, busy_p99) = np.quantile(taken * 1000, [0.5, 0.99], axis=0)
    return {"p50": float(p50), "p99": float(p99), "cpu_p50": float(busy_p50), "cpu_p99": float(busy_p99)}


def recall(index: SpecificationIndex, probes: Matrix) -> float:
    """Returns the share of the probes (n, r) whose nearest learnware the index finds, against scoring all of them."""
    found = [index.search(probe, 1).owners[0] == index.all_values(probe).argmax() for probe in probes]
    return float(np.mean(found))


def probe_vectors(learnwares: Sequence[Learnware], texts: Matrix, count: int) -> Matrix:
    """Returns vectors (count, dim) of unit norm: half are encoded texts, half lie near reduced points of random
    learnwares."""
    generator = np.random.default_rng(1)
    near = np.empty((count // 2, texts.shape[1]), np.float32)
    for row in range(len(near)):
        points = learnwares[int(generator.integers(len(learnwares)))].specified.views[0].points
        step = generator.normal(size=texts.shape[1])
        near[row] = points[int(generator.integers(len(points)))] + RECALL_NOISE * step / np.linalg.norm(step)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    return np.concatenate([near, texts[generator.integers(0, len(texts), count - len(near))]])


def changed_recall(
    selector: Selector, learnwares: Sequence[Learnware], added: Sequence[Learnware], vectors: Matrix
) -> float:
    """Returns the recall after as many learnwares were removed as are added. The index must be whole then."""
    generator = np.random.default_rng(2)
    removed = [learnwares[number].id for number in generator.choice(len(learnwares), len(added), replace=False)]
    changed = selector.changed(added, removed)
    if problems := changed.check_integrity():
        raise InvalidInput(f"the index is not whole after changes: {problems[0]}")
    return recall(changed.index, changed.metric.apply(vectors))


def measure(options: argparse.Namespace) -> tuple[dict[str, float], list[list[str]]]:
    """Measures every number of learnwares; returns figures by name and the rows of the table."""
    rounds, probes = (SHORT_ROUNDS, SHORT_PROBES) if options.short else (ROUNDS, PROBES)
    starters = load_learnwares(options.learnwares)
    encoder = load_prompt_encoder()
    texts = request_texts(starters, options)
    encoded = encoder.encode(texts)
    figures: dict[str, float] = {}
    rows = []
    for count in options.counts:
        learnwares = resample(starters, count)
        started = time.perf_counter()
        selector = Selector(learnwares, encoder, SelectionSettings())
        built = time.perf_counter() - started
        taken = time_choices(selector, texts, rounds)
        vectors = probe_vectors(learnwares, encoded, probes)
        found = recall(selector.index, selector.metric.apply(vectors))
        (p50, busy_p50), (p99, busy_p99) = np.quantile(taken, [0.5, 0.99], axis=0)
        if count == min(options.counts):  # whatever the market: only the encoder's part is longer
            questions = [text for some in read_questions_of([*DOMAINS, "general"]).values() for text in some]
            new = time_new_asks(selector, questions[:SHORT_NEW_ASKS] if options.short else questions)
            figures |= {f"route_new_ask_{name}_ms": value for name, value in new.items()}
            print("\n".join(f"new ask, {name}: {value:.2f} ms" for name, value in new.items()), flush=True)
        figures |= {
            f"route_p50_ms_n{count}": float(p50),
            f"route_p99_ms_n{count}": float(p99),
            f"route_cpu_p50_ms_n{count}": float(busy_p50),
            f"route_cpu_p99_ms_n{count}": float(busy_p99),
            f"index_recall_n{count}": found,
            f"build_s_n{count}": built,
        }
        kind = "exact" if selector.index.exact else "two stages"
        rows.append(
            [
                str(count),
                kind,
                f"{p50:.3f}",
                f"{p99:.3f}",
                f"{busy_p50:.3f}",
                f"{busy_p99:.3f}",
                f"{found:.4f}",
                f"{built:.1f}",
            ]
        )
        print(
            f"{count} learnwares: p50 {p50:.3f} ms, p99 {p99:.3f} ms (processor {busy_p50:.3f}, {busy_p99:.3f}), "
            f"recall@1 {found:.4f} ({kind})",
            flush=True,
        )
        if count > ALWAYS_REBUILT:
            added = named(
                resample(starters, len(starters) + int(CHANGED_SHARE * count), seed=1)[len(starters) :], "new"
            )
            figures[f"index_recall_changed_n{count}"] = changed_recall(selector, learnwares, added, vectors)
            del selector
            gc.collect()
            additions = measure_additions(
                learnwares, added[: SHORT_ADDED if options.short else ADDED], texts, SelectionSettings()
            )
            figures |= (later := living_figures(additions, count))
            print("\n".join(f"  {name}: {value:.4f}" for name, value in later.items()), flush=True)
            del additions
        else:
            del selector
        del learnwares
        gc.collect()
    return figures, rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=__doc__.split("\n")[0])
    add_data_option(parser)
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="numbers of learnwares")
    parser.add_argument("--short", action="store_true", help=f"{SHORT_ROUNDS} choices a number instead of {ROUNDS}")
    add_output_options(parser)
    options = parser.parse_args(arguments)
    conditions: dict[str, Any] = setup()
    try:
        figures, rows = measure(options)
    except LearnwareError as error:
        print(f"benchmarks.routing: {error}", file=sys.stderr)
        return 1
    print()
    print(table(["learnwares", "index", "p50 ms", "p99 ms", "processor p50 ms", "p99 ms", "recall@1", "build s"], rows))
    conditions |= {"threads": {name: os.environ.get(name) for name in THREAD_LIMITS}, "short": options.short}
    write_result(options, result("routing", figures, conditions, {"counts": options.counts}))
    return 0
