"""`learnware-serving matrix`: what every learnware answers right on every task, in one small file."""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.terminal import add_base_arguments
from specs.errors import InvalidInput
from specs.files import write_atomically

MAX_ROWS = 50
ACROSS = 0.1


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
        "--candidates",
        type=Path,
        metavar="FILE",
        help="only these cells: a JSON object, the learnwares by task (`python -m benchmarks.learning --candidates`)",
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
    from serving.training.matrix import (
        adapter_folders,
        extended,
        in_sentences,
        known_cells,
        load_result,
        sampled,
        score_cells,
        task_rows,
        wanted_cells,
        write_capabilities,
    )
    from serving.training.scoring import PROTOCOL, TEXT_PROTOCOL
    from specs.adapter import adapter_hash

    torch.set_num_threads(args.threads)
    adapters = adapter_folders(args.learnwares)
    base = ensure_base_model(args.base, args.cache or cache_folder(), print)
    base_id = args.base_id or base_model_id(args.base)
    if args.write_capability and not args.probes:
        raise InvalidInput("--write-capability goes with --probes: learnwares are never ranked by test rows")
    if args.verify is not None:
        return _verify(args, adapters, base, base_id)
    candidates = None if args.candidates is None else read_candidates(args.candidates)
    only = args.tasks or (list(candidates) if candidates is not None else None)
    tasks = {
        name: sampled(rows, args.max_rows, args.probes)
        for name, rows in task_rows(args.data, adapters, only, args.probes).items()
    }
    tasks = dict(sorted(tasks.items(), key=lambda item: sum(len(row.prompt) for row in item[1].rows)))  # cheap first
    hashes = {name: adapter_hash(folder) for name, folder in adapters.items()}
    path = args.json or args.out / "matrix.json"
    cells = wanted_cells(list(tasks), list(adapters), args.across, candidates)
    before = load_result(path)
    known = known_cells(before, tasks, hashes)
    deadline = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    scored = score_cells(cells, known, tasks, adapters, base, base_id, args.out / "cells", args.device, deadline)
    about = {
        "protocol": PROTOCOL,
        "base_model": base_id,
        "split": "train, held out" if args.probes else "test",
        "max_rows": args.max_rows,
        "across": args.across,
    }
    result = about | extended(before, tasks, hashes, scored)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(result, separators=(",", ":")) + "\n").encode())
    print(f"{len(scored)} of {len(cells)} cells ({len(adapters)} learnwares, {len(tasks)} tasks), written to {path}")
    if args.write_capability:
        text = in_sentences(tasks)
        write_capabilities(scored, adapters, base_id, f"{PROTOCOL}; {TEXT_PROTOCOL}" if text else PROTOCOL, text)
    return 0


def read_candidates(path: Path) -> dict[str, list[str]]:
    """Reads the learnwares that are measured by task, <domain>-<task>.

    Raises:
        InvalidInput: the file is not there, names no task, or is no JSON object of lists of names.
    """
    from pydantic import TypeAdapter, ValidationError

    right = 'it must be a JSON object that gives each task a list of learnwares: {"<domain>-<task>": ["<id>", …], …}'
    try:
        found = TypeAdapter(dict[str, list[str]]).validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{part!r}: " for part in first["loc"])
        raise InvalidInput(f"{path}: {place}{first['msg']}; {right}") from None
    if not found:
        raise InvalidInput(f"{path} names no task; {right}")
    return found


def _verify(args: argparse.Namespace, adapters: Mapping[str, Path], base: Path, base_id: str) -> int:
    """Measures a share of a result's cells again and prints how far they agree; returns the exit status."""
    from serving.training.matrix import measured_again

    again = measured_again(
        args.verify, args.data, adapters, base, base_id, args.out / "verified", args.device, args.share, args.seed
    )
    for cell in again.cells:
        print(f"{cell.name}: {cell.turned} of {cell.rows} answers turned, likelihood moved {cell.drift:.3f}")
    wrong = [cell.name for cell in again.cells if not cell.agrees]
    if wrong:
        print(f"{len(wrong)} of {len(again.cells)} cells disagree with {args.verify}: {', '.join(wrong)}")
        return 1
    print(f"{len(again.cells)} of {again.known} cells measured again, all agree")
    return 0
