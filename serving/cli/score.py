"""`learnware-serving score`: scores every learnware beside its controls, by one protocol."""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from serving.paths import STARTER_FOLDER
from serving.terminal import Progress, add_base_arguments
from specs.errors import InvalidInput
from specs.files import write_atomically

SAID_ROWS = 100
"""Number of rows of a task in sentences that are answered for ROUGE-L."""
SAID_TOKENS = 160
"""Largest length of such an answer in tokens. Nine of ten worked solutions of schoolroom problems end before; a hundred
rows take a minute or so on one core."""


def add_parser(subparsers: Any) -> None:
    """Adds `score` to the command line."""
    parser = subparsers.add_parser(
        "score",
        help="score learnwares on their tasks beside base, majority answer and shuffled-answers control",
        description="Scores learnwares named <domain>-<task> on <data>/<domain>/<task>.test.jsonl, choosing among the "
        "answers by log-likelihood; answers in sentences by log-likelihood a token and ROUGE-L. "
        "Finished rows are kept in the output folder: called again, it goes on.",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of <domain>/<task>.{train,test}.jsonl")
    parser.add_argument("--learnwares", type=Path, default=STARTER_FOLDER, help="folder of adapter folders")
    parser.add_argument(
        "--controls", type=Path, default=None, help="folder of adapters trained with --shuffle-answers, same names"
    )
    parser.add_argument(
        "--controls-from",
        type=Path,
        default=None,
        metavar="REPORT",
        help="an earlier report: of controls that are not at hand, what it says of them on the same rows",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for rows' scores (cells/) and the report")
    parser.add_argument("--only", nargs="+", default=None, help="names of learnwares (default: all)")
    parser.add_argument("--max-rows", type=int, default=None, help="test rows of each task at most")
    parser.add_argument(
        "--said-rows",
        type=int,
        default=SAID_ROWS,
        help="rows answered for ROUGE-L, of tasks in sentences (%(default)s)",
    )
    parser.add_argument("--said-tokens", type=int, default=SAID_TOKENS, help="of such an answer (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=None, help="where the report goes (default: OUT/scores.json)")
    add_base_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `score`; returns the exit status."""
    import torch

    from serving.base_model import base_model_id, ensure_base_model
    from serving.paths import cache_folder
    from serving.training.free_text import Said, text_report, text_table
    from serving.training.matrix import sampled
    from serving.training.report import majority_scores, table, task_report, with_earlier_control
    from serving.training.rows import read_rows, rows_hash, rows_kind
    from serving.training.scoring import BASE, PROTOCOL, TEXT_PROTOCOL, Scorer

    torch.set_num_threads(args.threads)
    names = adapter_names(args.learnwares, args.only)
    base = ensure_base_model(args.base, args.cache or cache_folder(), print)
    adapters = {name: args.learnwares / name for name in names}
    controls = {}
    if args.controls is not None:
        controls = {
            name: f"shuffled {name}" for name in names if (args.controls / name / "adapter_config.json").exists()
        }
        adapters |= {label: args.controls / name for name, label in controls.items()}
    base_id = args.base_id or base_model_id(args.base)
    earlier = earlier_controls(args.controls_from) if args.controls_from is not None else {}
    scorer = Scorer(base, base_id, adapters, args.out / "cells", args.device)
    reports: dict[str, Any] = {}
    hashes: dict[str, str] = {}
    with Progress("scoring", "row") as bar:
        total = done = 0
        for name in names:
            place = args.data.joinpath(*name.split("-", 1))
            rows = read_rows(Path(f"{place}.test.jsonl"))
            rows = rows if args.max_rows is None else sampled(rows, args.max_rows).rows
            hashes[name] = rows_hash(rows)
            wanted = [BASE, name, *([controls[name]] if name in controls else [])]
            total += len(rows) * len(wanted)

            text = rows_kind(rows) == "text"
            scored: dict[str, Any] = {}
            for system in wanted:
                show = partial(_show, bar, done, total, f"{system} on {name}")
                scored[system] = scorer.score(rows, system, show)
                if text:
                    first = rows[: args.said_rows]
                    show = partial(_show, bar, done, total, f"{system} answers {name}")
                    scored[system] = Said(scored[system], scorer.say(first, system, args.said_tokens, show))
                done += len(rows)
            systems = {BASE: scored[BASE], "learnware": scored[name]}
            if name in controls:
                systems["shuffled"] = scored[controls[name]]
            if text:
                report = text_report(systems, [row.answer for row in rows])
            else:
                report = task_report(
                    systems | {"majority": majority_scores(read_rows(Path(f"{place}.train.jsonl")), rows)}
                )
                if name not in controls and earlier.get(name, {}).get("rows_sha256") == hashes[name]:
                    report = with_earlier_control(report, earlier[name]["systems"]["shuffled"])
            folders = {"learnware": adapters[name], "shuffled": adapters.get(controls.get(name, ""))}
            training = {system: training_record(folder) for system, folder in folders.items() if folder}
            if "paired" in report["against"].get("shuffled", {}):
                training["shuffled"] = earlier[name].get("training", {}).get("shuffled", {})
            reports[name] = report | {"rows_sha256": hashes[name], "training": training}
    scorer.check_integrity()
    summary = {
        "protocol": PROTOCOL,
        "text_protocol": TEXT_PROTOCOL,
        "base_model": base_id,
        "adapters_sha256": scorer.hashes,
        "max_rows": args.max_rows,
        "rows_sha256": hashes,
        "tasks": reports,
        "beat_all_controls": sorted(name for name, report in reports.items() if report["beats_all_controls"]),
    }
    path = args.json or args.out / "scores.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(summary, indent=1) + "\n").encode())
    in_sentences = {name: report for name, report in reports.items() if report.get("kind") == "text"}
    if len(in_sentences) < len(reports):
        print(table({name: report for name, report in reports.items() if name not in in_sentences}))
    if in_sentences:
        print(text_table(in_sentences))
    print(f"written to {path}")
    return 0


def earlier_controls(path: Path) -> dict[str, Any]:
    """Returns the tasks of an earlier report that have a shuffled control, by the name of the learnware.

    Raises:
        InvalidInput: the file is not a report, or is one by another protocol.
    """
    from serving.training.scoring import PROTOCOL

    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["protocol"] != PROTOCOL:
            raise InvalidInput(f"{path} was measured by another protocol: {report['protocol']!r}")
        return {name: task for name, task in report["tasks"].items() if "shuffled" in task["systems"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{path} is no report of `learnware-serving score` ({error!r})") from error


def training_record(folder: Path) -> dict[str, Any]:
    """Returns what the record beside an adapter says of its training, empty where there is none; it shows, for example,
    that a control was trained for fewer steps."""
    try:
        record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: record[key] for key in ("steps", "stopped_by", "seconds", "train_rows") if key in record}


def _show(bar: Progress, before: int, total: int, title: str, rows: int) -> None:
    bar.show(before + rows, total, title)


def adapter_names(folder: Path, only: Sequence[str] | None) -> list[str]:
    """Returns the names of the sub-folders that hold an adapter, sorted.

    Raises:
        InvalidInput: there is none, one of `only` is not there, or a name is not <domain>-<task>.
    """
    names = sorted(path.parent.name for path in folder.glob("*/adapter_config.json"))
    missing = sorted(set(only or []) - set(names))
    if missing or not names:
        raise InvalidInput(f"no adapter {', '.join(missing) or 'at all'} in {folder}; there are: {', '.join(names)}")
    chosen = [name for name in names if only is None or name in only]
    for name in chosen:
        if "-" not in name:
            raise InvalidInput(f"{name!r} does not say its domain; learnwares to be scored are named <domain>-<task>")
    return chosen
