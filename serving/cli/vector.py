"""`learnware-serving spec make-vector`: makes parameter vectors from rows, on the machine where the rows lie."""

import argparse
import time
from pathlib import Path
from typing import Any

from serving.terminal import Progress, add_base_arguments
from specs.errors import InvalidInput
from specs.pave import EMBEDDED_PROXY, EMBEDDED_SHA256, PAVE_FILE, Basis, ParameterVector, dump_vector, read_vector

ENDING = ".pave.safetensors"
"""Ending of the files in a folder of vectors."""
DEFAULTS = Basis()


def add_parser(commands: Any) -> None:
    """Adds `make-vector` to the subcommands of `spec`."""
    parser = commands.add_parser(
        "make-vector",
        help="write the parameter vector (PAVE) of a task, or into a learnware's folder",
        description="Trains the shared frozen basis on rows (JSON lines with a `prompt`, or texts in a .txt file; no "
        "answers needed) and writes what becomes of it. Rows stay here. With several files of rows the output is a "
        "folder with one vector for each; those that are there already are left alone.",
    )
    parser.add_argument("rows", type=Path, nargs="+", help="the rows, one file a vector")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("-o", "--output", type=Path, help=f"the file to write; for several, the folder (NAME{ENDING})")
    place.add_argument("--learnware", type=Path, help="a learnware's folder, whose specification/ gets the vector")
    add_base_arguments(parser)
    parser.add_argument("--layers", type=int, default=DEFAULTS.layers, help="lowest layers that make up the proxy")
    parser.add_argument("--first", type=int, default=DEFAULTS.first, help="first of them that is adapted")
    parser.add_argument("--modules", default=",".join(DEFAULTS.modules), help="linear layers, comma-separated")
    parser.add_argument("--rank", type=int, default=DEFAULTS.rank)
    parser.add_argument("--seed", type=int, default=DEFAULTS.seed, help="of the frozen A; everybody must use the same")
    parser.add_argument("--window", type=int, default=DEFAULTS.window, help="tokens of a text seen at once")
    parser.add_argument("--steps", type=int, default=DEFAULTS.steps, help=f"of {DEFAULTS.batch} texts each")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs `spec make-vector`; returns the exit status."""
    import torch

    from serving.base_model import EMBEDDED, base_model_id, ensure_base_model
    from serving.paths import cache_folder
    from serving.training.pave import Proxy, weights_hash
    from serving.training.trainer import write_atomically
    from specs.learnware import SPECIFICATION_FOLDER
    from specs.task import read_rows

    torch.set_num_threads(options.threads)
    if options.learnware is not None and not (options.learnware / SPECIFICATION_FOLDER).is_dir():
        raise InvalidInput(f"{options.learnware} is no learnware's folder: it has no {SPECIFICATION_FOLDER}/")
    folder = ensure_base_model(options.base, options.cache or cache_folder(), print)
    embedded = options.base == EMBEDDED
    basis = Basis(
        proxy=EMBEDDED_PROXY if embedded else options.base_id or base_model_id(options.base),
        sha256=EMBEDDED_SHA256 if embedded else weights_hash(folder),
        layers=options.layers,
        first=options.first,
        modules=tuple(name.strip() for name in options.modules.split(",") if name.strip()),
        rank=options.rank,
        seed=options.seed,
        window=options.window,
        steps=options.steps,
    )
    wanted = _wanted(options, SPECIFICATION_FOLDER)
    missing = {rows: file for rows, file in wanted.items() if len(wanted) == 1 or not _is_made(file, basis)}
    if len(missing) < len(wanted):
        print(f"{len(wanted) - len(missing)} of {len(wanted)} vectors are there already")
    proxy = Proxy(folder, basis, options.device) if missing else None
    for rows, file in missing.items():
        assert proxy is not None
        texts, begun = read_rows(rows), time.monotonic()
        with Progress(rows.name) as bar:
            vector = proxy.vector(texts, bar.show)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, dump_vector(vector))
        _say(vector, file, time.monotonic() - begun)
    return 0


def _wanted(options: argparse.Namespace, specification: str) -> dict[Path, Path]:
    """Returns the file to write for each file of rows.

    Raises:
        InvalidInput: several files of rows are given for one learnware, or two of them have the same name.
    """
    if len(options.rows) == 1:
        return {options.rows[0]: options.output or options.learnware / specification / PAVE_FILE}
    if options.output is None:
        raise InvalidInput("a learnware has one vector: give one file of rows")
    files = {
        rows: options.output / f"{rows.name.removesuffix('.jsonl').removesuffix('.txt')}{ENDING}"
        for rows in options.rows
    }
    if len(set(files.values())) < len(files):
        raise InvalidInput("two files of rows have one name")
    return files


def _is_made(file: Path, basis: Basis) -> bool:
    return file.is_file() and read_vector(file).basis.key == basis.key


def _say(vector: ParameterVector, file: Path, seconds: float) -> None:
    print(f"{file}: {len(vector.tau):,} numbers from {vector.rows} rows, {seconds:.1f} s", flush=True)
