"""Makes the inputs that some rules of `benchmarks.market.rules` need and that take minutes:

    python -m benchmarks.market.rule_inputs --data DATA --base FOLDER --out FOLDER

For every task, from train rows alone: parameter vectors of two halves that share no row, one as a provider's and one
as a user's, by `learnware-serving spec make-vector`; and the base model's states on some of the user's rows, for the
rules that look at adapters' weights. Called again it goes on; what is there is left alone.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.tasks import DOMAINS, add_data_option, task_of
from specs.errors import InvalidInput, LearnwareError
from specs.pave import ParameterVector, read_vector

HALF_ROWS = 200
STATE_ROWS = 8
"""The base model's states are kept for so many of the user's rows."""
STATE_PLACES = 4
"""States are kept at so many tokens of a row, evenly spaced; the last one, where the answer begins, is among them."""
STATE_TOKENS = 128
"""So many tokens of a prompt are run; longer prompts lose their middle."""
PROJECTIONS = ("q_proj", "o_proj", "gate_proj", "down_proj")
"""Inputs of these linear layers are kept; k_proj and v_proj share q_proj's, up_proj shares gate_proj's."""

States = Mapping[str, NDArray[np.float16]]
"""The inputs by projection, of unit length: (rows, places, layers, features)."""


class RuleInputs(NamedTuple):
    """The inputs of rules by task, named <domain>-<task>."""

    provider: Mapping[str, ParameterVector]
    user: Mapping[str, ParameterVector]
    texts: Mapping[str, list[str]]
    """The provider's rows."""
    states: Mapping[str, States]


def read_inputs(folder: Path) -> RuleInputs:
    """Returns the inputs that this command has made so far; tasks that lack a part lack it here.

    Raises:
        InvalidInput: a file is damaged.
    """
    vectors: dict[str, dict[str, ParameterVector]] = {"provider": {}, "user": {}}
    for path in sorted((folder / "vectors").glob("*.pave.safetensors")):
        task, half = path.name.removesuffix(".pave.safetensors").rsplit(".", 1)
        vectors[half][task] = read_vector(path)
    texts = {
        path.name.removesuffix(".provider.jsonl"): [
            json.loads(line)["prompt"] for line in path.read_text().splitlines()
        ]
        for path in sorted((folder / "rows").glob("*.provider.jsonl"))
    }
    states = {path.stem: dict(np.load(path)) for path in sorted((folder / "states").glob("*.npz"))}
    return RuleInputs(vectors["provider"], vectors["user"], texts, states)


def write_halves(data: Path, tasks: Sequence[str], folder: Path) -> list[Path]:
    """Writes two files of rows for each task, at most `HALF_ROWS` each, taken in turn from the first train rows."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for task in tasks:
        path = data / f"{task_of(task)}.train.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()[: 2 * HALF_ROWS]
        except OSError as error:
            raise InvalidInput(f"{path}: {error.strerror}") from None
        for number, half in enumerate(("provider", "user")):
            files.append(folder / f"{task}.{half}.jsonl")
            files[-1].write_text("\n".join(lines[number::2]) + "\n", encoding="utf-8")
    return files


def make_vectors(files: Sequence[Path], folder: Path, threads: int) -> None:
    """Raises InvalidInput when the command fails."""
    command = [sys.executable, "-m", "serving.cli", "spec", "make-vector", *files, "-o", folder, "--threads", threads]
    if subprocess.run(list(map(str, command)), check=False).returncode:
        raise InvalidInput("`learnware-serving spec make-vector` failed; what it said stands above")


class Base:
    """The base model, run for the inputs of its linear layers."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(threads)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=torch.float32, local_files_only=True
        ).eval()
        self._seen: dict[str, list[Any]] = {name: [] for name in PROJECTIONS}
        for layer in self._model.get_decoder().layers:
            for name in PROJECTIONS:
                part = layer.self_attn if name in {"q_proj", "o_proj"} else layer.mlp
                getattr(part, name).register_forward_pre_hook(
                    lambda _, given, name=name: self._seen[name].append(given[0][0])
                )

    def states(self, prompts: Sequence[str]) -> States:
        """Returns the states of each prompt as one user turn, at `STATE_PLACES` of its tokens."""
        import torch

        found: dict[str, list[NDArray[np.float16]]] = {name: [] for name in PROJECTIONS}
        for prompt in prompts:
            turn = [{"role": "user", "content": prompt}]
            text = self._tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            ids = list(self._tokenizer(str(text), add_special_tokens=False)["input_ids"])
            if len(ids) > STATE_TOKENS:
                ids = ids[: STATE_TOKENS // 3] + ids[len(ids) - (STATE_TOKENS - STATE_TOKENS // 3) :]
            with torch.no_grad():
                self._model.get_decoder()(input_ids=torch.tensor([ids]), use_cache=False)
            places = np.linspace(0, len(ids) - 1, STATE_PLACES + 1).round().astype(int)[1:]
            for name, inputs in self._seen.items():
                taken = torch.stack(inputs, 1)[places.tolist()]
                found[name].append(torch.nn.functional.normalize(taken, dim=-1).numpy().astype(np.float16))
                inputs.clear()
        return {name: np.stack(rows) for name, rows in found.items()}


def make_states(tasks: Sequence[str], rows: Path, base: Path, folder: Path, threads: int) -> None:
    """Makes the states of the first `STATE_ROWS` of the user's rows of every task that has none yet."""
    from tqdm import tqdm

    missing = [task for task in tasks if not (folder / f"{task}.npz").exists()]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    model = Base(base, threads)
    for task in tqdm(missing, desc="states", unit="task"):
        lines = (rows / f"{task}.user.jsonl").read_text(encoding="utf-8").splitlines()[:STATE_ROWS]
        partial = folder / f".{task}.npz"
        np.savez(partial, **model.states([json.loads(line)["prompt"] for line in lines]))
        partial.rename(folder / f"{task}.npz")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.market.rule_inputs", description=__doc__.split("\n")[0])
    add_data_option(parser)
    parser.add_argument(
        "--base", type=Path, required=True, help="the base model's folder (`learnware-serving base-model`)"
    )
    parser.add_argument("--out", type=Path, required=True, help="where it is kept")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.data is None:
        print("benchmarks.market.rule_inputs needs the task data: --data FOLDER, or LEARNWARE_DATA", file=sys.stderr)
        return 2
    tasks = [
        f"{domain}-{path.name.removesuffix('.train.jsonl')}"
        for domain in DOMAINS
        for path in sorted((options.data / domain).glob("*.train.jsonl"))
    ]
    try:
        files = write_halves(options.data, tasks, options.out / "rows")
        make_states(tasks, options.out / "rows", options.base, options.out / "states", options.threads)
        make_vectors(files, options.out / "vectors", options.threads)
    except LearnwareError as error:
        print(f"benchmarks.market.rule_inputs: {error}", file=sys.stderr)
        return 1
    print(f"{len(tasks)} tasks in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
