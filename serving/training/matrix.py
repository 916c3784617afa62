"""`learnware-serving matrix`: what every learnware answers right on every task, in one small file.

Cells (learnware × task) of a learnware's own domain are all measured, of other domains a share drawn by the names'
hashes; rows are taken in the order of their hashes, a block at a time. So a run which is cut, or called again with more
learnwares or more rows, goes on with what it has; the result itself is enough for that.

Rows come from the test split, or with `--probes` from the train split's rows that training holds out
(`serving.training.rows.hold_out`): what a learnware is ranked by must be neither test rows nor rows it was trained on.
"""

import argparse
import base64
import hashlib
import json
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from serving.terminal import Progress, add_base_arguments
from serving.training.rows import Row, hold_out, rows_hash, rows_kind
from serving.training.settings import TrainingSettings
from specs.adapter import adapter_hash
from specs.capability import ProbeScore, capability_of, save_capability
from specs.errors import InvalidInput
from specs.learnware import SPECIFICATION_FOLDER

MAX_ROWS = 50
BLOCK = 8
"""Rows that are scored together by all adapters, on the same activations below the first adapted layer."""
ACROSS = 0.1
RIGHT_TOLERANCE = 2
"""Rows of a cell whose answer may turn when the cell is measured again: near ties, which bf16 rounding decides by the
shape of the batch."""
GOLD_TOLERANCE = 0.1
"""Nats by which the mean log-likelihood of the gold answer may differ, for the same reason."""


class Cell(NamedTuple):
    """One learnware, or the base model, on one task."""

    task: str
    system: str


class Sample(NamedTuple):
    """Rows of a task and their positions in its file."""

    positions: list[int]
    rows: list[Row]


class Measured(NamedTuple):
    """What is kept of a row: whether it is right, the gold answer's log-likelihood in nats, and its probability among
    the answers to choose from (without any: its likelihood). Of sentences both are means a token, and none is right."""

    right: bool
    gold: float
    among: float


def add_parser(subparsers: Any) -> None:
    """Adds `matrix` to the command line."""
    parser = subparsers.add_parser(
        "matrix",
        help="score learnwares on the tasks of their domain and a share of the others'",
        description="Scores every learnware named <domain>-<name> on the test rows of each task <data>/<domain>/<task> "
        "of its domain, and on a share of those of other domains. Finished rows are kept in the output folder: called "
        "again, also with the result alone, it goes on. The result is one JSON file: for each cell which rows are "
        "right, and the log-likelihood of each gold answer.",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of <domain>/<task>.test.jsonl")
    parser.add_argument("--learnwares", type=Path, required=True, nargs="+", help="folders of adapter folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for rows' scores (cells/)")
    parser.add_argument("--json", type=Path, default=None, help="where the result goes (default: OUT/matrix.json)")
    parser.add_argument("--tasks", nargs="+", default=None, help="only these, as <domain>-<task> (default: all)")
    parser.add_argument("--max-rows", type=int, default=MAX_ROWS, help="rows a cell at most (default: %(default)s)")
    parser.add_argument("--probes", action="store_true", help="rows held out of the train split, instead of test rows")
    parser.add_argument(
        "--across", type=float, default=ACROSS, help="share of the cells across domains (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=float, default=None, help="end after this long, with the cells that are whole"
    )
    parser.add_argument(
        "--write-capability",
        action="store_true",
        help="write what was measured into the learnwares' folders, for the router to rank by (with --probes)",
    )
    parser.add_argument(
        "--verify", type=Path, metavar="FILE", help="measure cells of this result anew; fails where they disagree"
    )
    parser.add_argument("--share", type=float, default=0.01, help="of the cells to verify (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="for the cells to verify (default: each time others)")
    add_base_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `matrix`; returns the exit status."""
    import torch

    from serving.base_model import base_model_id, ensure_base_model
    from serving.paths import cache_folder
    from serving.training.scoring import PROTOCOL, TEXT_PROTOCOL
    from serving.training.trainer import write_atomically

    torch.set_num_threads(args.threads)
    adapters = adapter_folders(args.learnwares)
    base = ensure_base_model(args.base, args.cache or cache_folder(), print)
    base_id = args.base_id or base_model_id(args.base)
    if args.write_capability and not args.probes:
        raise InvalidInput("--write-capability goes with --probes: learnwares are never ranked by test rows")
    if args.verify is not None:
        return _verify(args, adapters, base, base_id)
    tasks = {
        name: sampled(rows, args.max_rows, args.probes)
        for name, rows in task_rows(args.data, adapters, args.tasks, args.probes).items()
    }
    tasks = dict(sorted(tasks.items(), key=lambda item: sum(len(row.prompt) for row in item[1].rows)))  # cheap first
    hashes = {name: adapter_hash(folder) for name, folder in adapters.items()}
    path = args.json or args.out / "matrix.json"
    cells = wanted_cells(list(tasks), list(adapters), args.across)
    before = _kept(path)
    known = _known(before, tasks, hashes)
    deadline = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    scored = _score(cells, known, tasks, adapters, base, base_id, args.out / "cells", args.device, deadline)
    result = {
        "protocol": PROTOCOL,
        "base_model": base_id,
        "split": "train, held out" if args.probes else "test",
        "max_rows": args.max_rows,
        "across": args.across,
        "adapters_sha256": before["adapters_sha256"] | hashes,
        "tasks": before["tasks"]
        | {
            name: _packed(sample, {cell: rows for cell, rows in scored.items() if cell.task == name})
            for name, sample in tasks.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(result, separators=(",", ":")) + "\n").encode())
    print(f"{len(scored)} of {len(cells)} cells ({len(adapters)} learnwares, {len(tasks)} tasks), written to {path}")
    if args.write_capability:
        text = in_sentences(tasks)
        write_capabilities(scored, adapters, base_id, f"{PROTOCOL}; {TEXT_PROTOCOL}" if text else PROTOCOL, text)
    return 0


def write_capabilities(
    scored: Mapping[Cell, Sequence[Measured]],
    adapters: Mapping[str, Path],
    base_id: str,
    protocol: str,
    text: frozenset[str] = frozenset(),
) -> None:
    """Writes each learnware's `specification/capability.json`: its scores beside the base model's on the same rows.
    `text` names the tasks that are answered in sentences. What was measured off its task stays."""
    from serving.training.scoring import BASE

    for name, folder in adapters.items():
        probes = {
            cell.task: _probe_score(rows, scored[Cell(cell.task, BASE)], cell.task in text)
            for cell, rows in scored.items()
            if cell.system == name
        }
        place = folder / SPECIFICATION_FOLDER
        before = capability_of(place, base_id, adapter_hash(folder))
        save_capability(replace(before, protocol=protocol, probes=probes), place)


def in_sentences(tasks: Mapping[str, Sample]) -> frozenset[str]:
    """The tasks whose answers are sentences."""
    return frozenset(name for name, sample in tasks.items() if rows_kind(sample.rows) == "text")


def _probe_score(own: Sequence[Measured], base: Sequence[Measured], text: bool = False) -> ProbeScore:
    rows = len(own)

    def at_least(one: Measured, other: Measured) -> bool:
        return one.gold >= other.gold if text else one.right >= other.right

    return ProbeScore(
        rows=rows,
        accuracy=sum(row.right for row in own) / rows,
        probability=sum(row.among for row in own) / rows,
        log_likelihood=sum(row.gold for row in own) / rows,
        at_least_base=sum(at_least(one, other) for one, other in zip(own, base, strict=True)) / rows,
        base_accuracy=sum(row.right for row in base) / rows,
        base_probability=sum(row.among for row in base) / rows,
        base_log_likelihood=sum(row.gold for row in base) / rows,
    )


def _kept(path: Path) -> dict[str, Any]:
    """What a result holds already by the same protocol."""
    from serving.training.scoring import PROTOCOL

    if path.exists():
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if result["protocol"] == PROTOCOL:
            return result
    return {"adapters_sha256": {}, "tasks": {}}


def _known(
    result: Mapping[str, Any], tasks: Mapping[str, Sample], hashes: Mapping[str, str]
) -> dict[Cell, list[Measured]]:
    """Cells that a result holds, for the same adapters; of each the rows that are its first ones now."""
    import numpy as np

    from serving.training.scoring import BASE

    known: dict[Cell, list[Measured]] = {}
    for task, sample in tasks.items():
        entry = result["tasks"].get(task)
        shared = 0 if entry is None else min(len(entry["rows"]), len(sample.positions))
        if not shared or entry["rows"][:shared] != sample.positions[:shared]:
            continue
        if (entry.get("kind") == "text") != (rows_kind(sample.rows) == "text"):  # measured by another protocol
            continue
        if shared == len(entry["rows"]) and entry["rows_sha256"] != rows_hash(sample.rows[:shared]):
            continue
        for system, bits in entry["right"].items():
            if system == BASE or result["adapters_sha256"].get(system) == hashes.get(system, ""):
                gold, among = (
                    np.frombuffer(base64.b64decode(entry[kind][system]), "<f2").astype(float).tolist()
                    for kind in ("gold", "among")
                )
                rows = [Measured(bit == "1", g, a) for bit, g, a in zip(bits, gold, among, strict=True)]
                known[Cell(task, system)] = rows[:shared]
    return known


def adapter_folders(folders: Sequence[Path]) -> dict[str, Path]:
    """The adapters of several folders by name.

    Raises:
        InvalidInput: there is none, a name is there twice, or a name does not say its domain.
    """
    found: dict[str, Path] = {}
    for path in sorted(config.parent for folder in folders for config in folder.glob("*/adapter_config.json")):
        if path.name in found:
            raise InvalidInput(f"{path.name} is in {found[path.name].parent} and in {path.parent}")
        if "-" not in path.name:
            raise InvalidInput(f"{path.name!r} does not say its domain; learnwares here are named <domain>-<name>")
        found[path.name] = path
    if not found:
        raise InvalidInput(f"no adapter (a folder with adapter_config.json) in {', '.join(map(str, folders))}")
    return found


def task_rows(
    data: Path, adapters: Mapping[str, Path], only: Sequence[str] | None, probes: bool = False
) -> dict[str, list[Row]]:
    """All test rows (`probes`: train rows) of the tasks of the adapters' domains, by <domain>-<task>.

    Raises:
        InvalidInput: one of `only` is not there, or there is no task at all.
    """
    from serving.training.rows import read_rows

    domains = sorted({name.split("-", 1)[0] for name in adapters})
    suffix = ".train.jsonl" if probes else ".test.jsonl"
    paths = {
        f"{domain}-{path.name.removesuffix(suffix)}": path
        for domain in domains
        for path in sorted((data / domain).glob(f"*{suffix}"))
    }
    missing = sorted(set(only or []) - set(paths))
    if missing or not paths:
        raise InvalidInput(f"no task {', '.join(missing) or 'at all'} in {data}; there are: {', '.join(paths)}")
    return {name: read_rows(path) for name, path in paths.items() if only is None or name in only}


def sampled(rows: list[Row], limit: int, probes: bool = False) -> Sample:
    """At most `limit` rows, those with the smallest hashes; `probes`: of those that training holds out."""
    held = TrainingSettings()
    among = hold_out(rows, held.held_out_share, held.seed)[1] if probes else range(len(rows))
    positions = sorted(among, key=lambda i: hashlib.sha256(rows[i].prompt.encode()).digest())[:limit]
    return Sample(positions, [rows[i] for i in positions])


def wanted_cells(tasks: Sequence[str], systems: Sequence[str], across: float) -> list[Cell]:
    """The base model on every task, each learnware on its domain's, and a share of the rest, the same every time."""
    from serving.training.scoring import BASE

    def wanted(task: str, system: str) -> bool:
        if system.split("-", 1)[0] == task.split("-", 1)[0]:
            return True
        return int(hashlib.sha256(f"{task}\n{system}".encode()).hexdigest()[:8], 16) < across * 2**32

    return [Cell(task, BASE) for task in tasks] + [
        Cell(task, system) for task in tasks for system in systems if wanted(task, system)
    ]


def _score(
    cells: Sequence[Cell],
    known: Mapping[Cell, Sequence[Measured]],
    tasks: Mapping[str, Sample],
    adapters: Mapping[str, Path],
    base: Path,
    base_id: str,
    place: Path,
    device: str,
    deadline: float | None = None,
) -> dict[Cell, list[Measured]]:
    """The cells that are whole, after the deadline those that became so before it. Adapters that begin at the same
    layer go together: below it, activations are computed once for all of them."""
    from serving.training.scoring import BASE, Scorer, first_layer

    scored = {cell: list(known.get(cell, ())) for cell in cells}
    total = sum(len(tasks[cell.task].rows) for cell in cells)
    done = sum(map(len, scored.values()))
    groups: dict[int, list[str]] = {}
    for name, folder in adapters.items():
        groups.setdefault(first_layer(folder), []).append(name)
    with Progress("scoring", "row") as bar:
        for first, names in sorted(groups.items(), reverse=True):
            members = {*names, BASE} if first == max(groups) else set(names)
            mine = [cell for cell in cells if cell.system in members and len(scored[cell]) < len(tasks[cell.task].rows)]
            if not mine:
                continue
            scorer = Scorer(base, base_id, {name: adapters[name] for name in names}, place, device)
            for task, sample in tasks.items():
                kind = rows_kind(sample.rows)
                open_cells = [cell for cell in mine if cell.task == task]
                for start in sorted({begin for cell in open_cells for begin in _begins(scored[cell], sample)}):
                    for cell in open_cells:
                        if start not in _begins(scored[cell], sample) or (deadline and time.monotonic() > deadline):
                            continue
                        rows = sample.rows[start : (start // BLOCK + 1) * BLOCK]
                        show = partial(_show, bar, done, total, f"{cell.system} on {task}")
                        scored[cell] += [
                            Measured(row.right, row.gold_log_likelihood, row.gold_probability)
                            for row in scorer.score(rows, cell.system, show, kind)
                        ]
                        done += len(rows)
    return {cell: rows for cell, rows in scored.items() if len(rows) == len(tasks[cell.task].rows)}


def _begins(rows: Sequence[Measured], sample: Sample) -> list[int]:
    """Where the blocks begin that are still to be measured: first what is left of one, then whole ones."""
    start, end = len(rows), len(sample.rows)
    return [start, *range((start // BLOCK + 1) * BLOCK, end, BLOCK)] if start < end else []


def _show(bar: Progress, before: int, total: int, title: str, rows: int) -> None:
    bar.show(before + rows, total, title)


def _packed(sample: Sample, scored: Mapping[Cell, Sequence[Measured]]) -> dict[str, Any]:
    """A task's cells: `right`, a string of 0 and 1 over the rows; `gold` and `among` (`Measured`), 16-bit floats,
    little-endian, base64; `kind` where the answers are sentences."""
    kind = {"kind": "text"} if rows_kind(sample.rows) == "text" else {}
    return kind | {
        "rows_sha256": rows_hash(sample.rows),
        "rows": sample.positions,
        "right": {cell.system: "".join("01"[row.right] for row in rows) for cell, rows in scored.items()},
        "gold": {cell.system: _floats([row.gold for row in rows]) for cell, rows in scored.items()},
        "among": {cell.system: _floats([row.among for row in rows]) for cell, rows in scored.items()},
    }


def _floats(values: Sequence[float]) -> str:
    import numpy as np

    return base64.b64encode(np.array(values, "<f2").tobytes()).decode()


def _verify(args: argparse.Namespace, adapters: Mapping[str, Path], base: Path, base_id: str) -> int:
    """Measures some cells of a result anew, in a folder of their own, and says where they disagree."""
    import numpy as np

    result = json.loads(args.verify.read_text(encoding="utf-8"))
    every = task_rows(args.data, adapters, None, probes=result["split"] != "test")
    tasks = {
        name: Sample(entry["rows"], [every[name][i] for i in entry["rows"]]) for name, entry in result["tasks"].items()
    }
    for name, sample in tasks.items():
        if rows_hash(sample.rows) != result["tasks"][name]["rows_sha256"]:
            raise InvalidInput(f"{args.verify}: the rows of {name} are not those in {args.data}")
    known = [
        Cell(task, system) for task, entry in result["tasks"].items() for system in entry["right"] if system in adapters
    ]
    changed = sorted(
        {c.system for c in known if adapter_hash(adapters[c.system]) != result["adapters_sha256"][c.system]}
    )
    if changed:
        raise InvalidInput(f"{args.verify} was measured with other adapters: {', '.join(changed)}")
    cells = random.Random(args.seed).sample(known, max(1, round(args.share * len(known))))  # noqa: S311 - no secret
    used = {cell.system: adapters[cell.system] for cell in cells}
    place = args.out / "verified"
    shutil.rmtree(place, ignore_errors=True)
    scored = _score(cells, {}, tasks, used, base, base_id, place, args.device)
    wrong = []
    for cell in cells:
        entry = result["tasks"][cell.task]
        before = np.array([bit == "1" for bit in entry["right"][cell.system]])
        now = np.array([row.right for row in scored[cell]])
        gold = np.frombuffer(base64.b64decode(entry["gold"][cell.system]), "<f2").astype(float)
        drift = abs(gold.mean() - np.mean([row.gold for row in scored[cell]]))
        turned = int((before != now).sum())
        print(f"{cell.system} on {cell.task}: {turned} of {len(now)} answers turned, likelihood moved {drift:.3f}")
        if turned > RIGHT_TOLERANCE or not drift <= GOLD_TOLERANCE:
            wrong.append(f"{cell.system} on {cell.task}")
    if wrong:
        print(f"{len(wrong)} of {len(cells)} cells disagree with {args.verify}: {', '.join(wrong)}")
        return 1
    print(f"{len(cells)} of {len(known)} cells measured again, all agree")
    return 0
