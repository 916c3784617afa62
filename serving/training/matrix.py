"""The score matrix: what every learnware answers right on every task (`learnware-serving matrix`).

Cells (learnware × task) of a learnware's own domain are all measured, of other domains a share drawn by the names'
hashes; rows are taken in the order of their hashes, a block at a time. So a run which is cut, or called again with more
learnwares or more rows, goes on with what it has; the result itself is enough for that.

Rows come from the test split, or with `--probes` from the train split's rows that training holds out
(`serving.training.rows.hold_out`): what a learnware is ranked by must be neither test rows nor rows it was trained on.
"""

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

import numpy as np
from numpy.typing import NDArray

from serving.terminal import Progress
from serving.training.rows import Row, hold_out, read_rows, rows_hash, rows_kind
from serving.training.scoring import BASE, PROTOCOL, Scorer, first_layer
from serving.training.settings import TrainingSettings
from serving.training.shared_base import check_measurable
from specs.adapter import adapter_hash
from specs.capability import ProbeScore, capability_of, save_capability
from specs.errors import InvalidInput
from specs.learnware import SPECIFICATION_FOLDER

BLOCK = 8
"""Rows that are scored together by all adapters, on the same activations below the first adapted layer."""
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
    """A row's scores: whether the answer is right, the gold answer's log-likelihood in nats, and its probability among
    the answers to choose from (without any: its likelihood). For sentences both are means per token, and no answer
    counts as right."""

    right: bool
    gold: float
    among: float


def write_capabilities(
    scored: Mapping[Cell, Sequence[Measured]],
    adapters: Mapping[str, Path],
    base_id: str,
    protocol: str,
    text: frozenset[str] = frozenset(),
) -> None:
    """Writes each learnware's `specification/capability.json`: its scores beside the base model's on the same rows.
    `text` names the tasks that are answered in sentences. What was measured off its task stays."""
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


def load_result(path: Path) -> dict[str, Any]:
    """Reads what a result already holds by the same protocol."""
    if path.exists():
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if result["protocol"] == PROTOCOL:
            return result
    return {"adapters_sha256": {}, "tasks": {}}


def known_cells(
    result: Mapping[str, Any], tasks: Mapping[str, Sample], hashes: Mapping[str, str]
) -> dict[Cell, list[Measured]]:
    """Cells that a result holds, for the same adapters; of each the rows that are its first ones now."""
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
                gold, among = (_numbers(entry[kind][system]).tolist() for kind in ("gold", "among"))
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
    domains = sorted({name.split("-", 1)[0] for name in [*adapters, *(only or [])]})
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


def wanted_cells(
    tasks: Sequence[str],
    systems: Sequence[str],
    across: float,
    candidates: Mapping[str, Sequence[str]] | None = None,
) -> list[Cell]:
    """The base model on every task, each learnware on its domain's, and a share of the rest, the same every time; with
    `candidates`, the base model and those on each of their tasks.

    Raises:
        InvalidInput: a candidate is not among the systems.
    """
    if candidates is not None:
        missing = sorted({name for task in tasks for name in candidates.get(task, ())} - set(systems))
        if missing:
            raise InvalidInput(f"there is no learnware {', '.join(missing)} among those given")
        return [Cell(task, system) for task in tasks for system in (BASE, *candidates.get(task, ()))]

    def wanted(task: str, system: str) -> bool:
        if system.split("-", 1)[0] == task.split("-", 1)[0]:
            return True
        return int(hashlib.sha256(f"{task}\n{system}".encode()).hexdigest()[:8], 16) < across * 2**32

    return [Cell(task, BASE) for task in tasks] + [
        Cell(task, system) for task in tasks for system in systems if wanted(task, system)
    ]


def score_cells(
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
    layer go together: below it, activations are computed once for all of them.

    Raises:
        InvalidLearnware: an adapter cannot be served, or cannot be loaded without changing the base model.
    """
    scored = {cell: list(known.get(cell, ())) for cell in cells}
    total = sum(len(tasks[cell.task].rows) for cell in cells)
    done = sum(map(len, scored.values()))
    groups: dict[int, list[str]] = {}
    check_measurable(adapters)  # all of them before the first is scored, which may take an hour
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
            scorer.check_integrity()
    return {cell: rows for cell, rows in scored.items() if len(rows) == len(tasks[cell.task].rows)}


def _begins(rows: Sequence[Measured], sample: Sample) -> list[int]:
    """Returns where the blocks begin that are still to be measured: the rest of a begun one first, then whole ones."""
    start, end = len(rows), len(sample.rows)
    return [start, *range((start // BLOCK + 1) * BLOCK, end, BLOCK)] if start < end else []


def _show(bar: Progress, before: int, total: int, title: str, rows: int) -> None:
    bar.show(before + rows, total, title)


def extended(
    before: Mapping[str, Any],
    tasks: Mapping[str, Sample],
    hashes: Mapping[str, str],
    scored: Mapping[Cell, Sequence[Measured]],
) -> dict[str, Any]:
    """The adapters and tasks of an earlier result (`load_result`), with what was scored now in the place of the same
    tasks. `hashes` are the adapters' SHA-256 by name."""
    now = {
        name: _packed(sample, {cell: rows for cell, rows in scored.items() if cell.task == name})
        for name, sample in tasks.items()
    }
    return {"adapters_sha256": before["adapters_sha256"] | hashes, "tasks": before["tasks"] | now}


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
    return base64.b64encode(np.array(values, "<f2").tobytes()).decode()


def _numbers(packed: str) -> NDArray[np.float64]:
    """The reverse of `_floats`."""
    return np.frombuffer(base64.b64decode(packed), "<f2").astype(float)


class CellAgain(NamedTuple):
    """A cell of a result beside its second measurement: `turned` answers of `rows` are right in one of the two only;
    the mean log-likelihood of the gold answer differs by `drift` nats."""

    cell: Cell
    rows: int
    turned: int
    drift: float

    @property
    def name(self) -> str:
        return f"{self.cell.system} on {self.cell.task}"

    @property
    def agrees(self) -> bool:
        """Whether both differences are within what rounding explains; a drift that is no number is not."""
        return self.turned <= RIGHT_TOLERANCE and self.drift <= GOLD_TOLERANCE


class MeasuredAgain(NamedTuple):
    """The cells of a result that were measured again, and the number of those that could have been."""

    cells: list[CellAgain]
    known: int


def measured_again(
    path: Path,
    data: Path,
    adapters: Mapping[str, Path],
    base: Path,
    base_id: str,
    place: Path,
    device: str,
    share: float,
    seed: int | None,
) -> MeasuredAgain:
    """Measures a random share of the cells in the result `path` anew, in the folder `place`, which is emptied first.

    Raises:
        InvalidInput: the rows in `data`, or the adapters, are not those of the result.
    """
    result = json.loads(path.read_text(encoding="utf-8"))
    every = task_rows(data, adapters, None, probes=result["split"] != "test")
    tasks = {
        name: Sample(entry["rows"], [every[name][i] for i in entry["rows"]]) for name, entry in result["tasks"].items()
    }
    for name, sample in tasks.items():
        if rows_hash(sample.rows) != result["tasks"][name]["rows_sha256"]:
            raise InvalidInput(f"{path}: the rows of {name} are not those in {data}")
    known = [
        Cell(task, system) for task, entry in result["tasks"].items() for system in entry["right"] if system in adapters
    ]
    changed = sorted(
        {c.system for c in known if adapter_hash(adapters[c.system]) != result["adapters_sha256"][c.system]}
    )
    if changed:
        raise InvalidInput(f"{path} was measured with other adapters: {', '.join(changed)}")
    cells = random.Random(seed).sample(known, max(1, round(share * len(known))))  # noqa: S311 - no secret
    used = {cell.system: adapters[cell.system] for cell in cells}
    shutil.rmtree(place, ignore_errors=True)
    scored = score_cells(cells, {}, tasks, used, base, base_id, place, device)
    return MeasuredAgain([_beside(result["tasks"][cell.task], cell, scored[cell]) for cell in cells], len(known))


def _beside(entry: Mapping[str, Any], cell: Cell, rows: Sequence[Measured]) -> CellAgain:
    turned = sum((bit == "1") != row.right for bit, row in zip(entry["right"][cell.system], rows, strict=True))
    drift = abs(_numbers(entry["gold"][cell.system]).mean() - np.mean([row.gold for row in rows]))
    return CellAgain(cell, len(rows), turned, float(drift))
