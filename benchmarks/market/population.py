"""Makes about a hundred learnwares of three domains, good and bad, for the selection benchmarks.

    python -m benchmarks.market.population --data DATA --zoo ZOO --controls CONTROLS --out FOLDER

Five sources, each learnware in a folder of its own (adapter, card, specification), named <domain>-<kind>_<name>:

    starter    the twelve starter learnwares, as they are shipped
    zoo        ready adapters, one a task (a folder of <domain>-<task> adapters)
    shuffled   the starters' recipe on shuffled answers (`train --shuffle-answers`): right prompts, wrong answers
    trained    `RECIPES`: other ranks, modules, few rows, several tasks, one constant answer
    merged     exact linear mixtures of two adapters, adapters without their lower layers, and adapters that push the
               base the other way: `MERGES`, `TOPS`, `NEGATED`

Called again it goes on: what is complete is left alone. A specification is made from the train rows of a learnware's
tasks, so a shuffled or negated control looks like its twin: only what it scores tells them apart.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from benchmarks.common.tasks import STARTER_LEARNWARES, add_data_option, task_of
from specs.answers.description import describe_answers
from specs.card import CARD_FILE, BaseModelReference, Card, load_card, save_card
from specs.compositions import asked_and_declined
from specs.encoding.encoder import Encoder, load_prompt_encoder
from specs.errors import InvalidInput, LearnwareError
from specs.learnware import SPECIFICATION_FOLDER
from specs.specification import POINTS_PER_VIEW, make_specification, save_specification

LAYER = re.compile(r"layers\.(\d+)\.")


class TrainingRecipe(NamedTuple):
    """Arguments of `learnware-serving train`; `rows` is the most that are taken of each task; with `constant` every row
    gets this answer."""

    tasks: tuple[str, ...]
    steps: int
    rank: int = 8
    modules: str = "q_proj,v_proj,o_proj,down_proj"
    first_layer_share: float = 0.7
    rows: int = 400
    constant: bool = False


ATTENTION = "q_proj,k_proj,v_proj,o_proj"
MLP = "gate_proj,up_proj,down_proj"
EVERY = f"{ATTENTION},{MLP}"

RECIPES: dict[str, TrainingRecipe] = {
    "finance-trained_sentiment_mixture": TrainingRecipe(
        ("finance-tfns", "finance-fiqa_sa", "finance-fpb"), 40, rows=120
    ),
    "finance-trained_fpb_rank16": TrainingRecipe(("finance-fpb",), 32, rank=16, rows=256),
    "finance-trained_headlines_all_modules": TrainingRecipe(
        ("finance-headlines_direction",), 24, modules=EVERY, rows=192
    ),
    "finance-trained_tfns_few_rows": TrainingRecipe(("finance-tfns",), 16, rank=4, rows=48),
    "finance-trained_yesno_constant": TrainingRecipe(("finance-headlines_yesno",), 8, rank=4, rows=64, constant=True),
    "healthcare-trained_subject_mlp": TrainingRecipe(("healthcare-mmlu_medical_subject",), 32, modules=MLP, rows=256),
    "healthcare-trained_subject_few_rows": TrainingRecipe(("healthcare-mmlu_medical_subject",), 16, rank=4, rows=48),
    "healthcare-trained_symptom_rank32": TrainingRecipe(
        ("healthcare-symptom2disease",), 48, rank=32, modules=ATTENTION, rows=384
    ),
    "healthcare-trained_choices_mixture": TrainingRecipe(
        ("healthcare-medmcqa", "healthcare-mmlu_medical"), 24, rows=96
    ),
    "healthcare-trained_choices_constant": TrainingRecipe(
        ("healthcare-mmlu_medical",), 8, rank=4, rows=64, constant=True
    ),
    "mathematics-trained_operation_mixture": TrainingRecipe(
        ("mathematics-svamp_operation", "mathematics-gsm8k_first_operation"), 40, rows=160
    ),
    "mathematics-trained_operation_few_rows": TrainingRecipe(("mathematics-svamp_operation",), 16, rank=4, rows=48),
    "mathematics-trained_arithmetic_mixture": TrainingRecipe(
        ("mathematics-svamp", "mathematics-mawps", "mathematics-multiarith"), 40, rank=16, rows=107
    ),
    "mathematics-trained_mathqa_constant": TrainingRecipe(("mathematics-mathqa",), 8, rank=4, rows=64, constant=True),
}

MERGES: dict[str, tuple[str, str]] = {
    "finance-merged_tfns_fiqa": ("finance-tfns", "finance-fiqa_sa"),
    "finance-merged_tfns_fpb": ("finance-zoo_tfns", "finance-zoo_fpb"),
    "finance-merged_headlines": ("finance-zoo_headlines_direction", "finance-zoo_headlines_yesno"),
    "finance-merged_credit": ("finance-australian_credit", "finance-zoo_german_credit"),
    "finance-merged_entities_sentiment": ("finance-fin_ner_type", "finance-tfns"),
    "finance-merged_tables": ("finance-zoo_tatqa", "finance-zoo_convfinqa"),
    "healthcare-merged_choices": ("healthcare-medqa_usmle", "healthcare-top_medmcqa"),
    "healthcare-merged_yesno": ("healthcare-pubmedqa", "healthcare-top_bioasq_yesno"),
    "healthcare-merged_abstracts": ("healthcare-pubmed_section", "healthcare-top_medical_abstracts"),
    "healthcare-merged_subjects": ("healthcare-mmlu_medical_subject", "healthcare-top_mmlu_medical_subject"),
    "healthcare-merged_symptoms_section": ("healthcare-top_symptom2disease", "healthcare-pubmed_section"),
    "mathematics-merged_operations": ("mathematics-svamp_operation", "mathematics-gsm8k_first_operation"),
    "mathematics-merged_words": ("mathematics-top_gsm8k", "mathematics-top_svamp"),
    "mathematics-merged_choices": ("mathematics-aqua_rat", "mathematics-top_mathqa"),
    "mathematics-merged_operation_words": ("mathematics-svamp_operation", "mathematics-top_mawps"),
}

TOPS: dict[str, str] = {
    f"{name.replace('zoo_', 'top_')}": name
    for name in (
        "finance-zoo_fpb",
        "finance-zoo_headlines_direction",
        "finance-zoo_ccfraud_balanced",
        "finance-zoo_fin_ner_type",
        "healthcare-zoo_bioasq_yesno",
        "healthcare-zoo_medical_abstracts",
        "healthcare-zoo_medmcqa",
        "healthcare-zoo_mmlu_medical_subject",
        "healthcare-zoo_pubmed_section",
        "healthcare-zoo_symptom2disease",
        "mathematics-zoo_gsm8k",
        "mathematics-zoo_mathqa",
        "mathematics-zoo_mawps",
        "mathematics-zoo_multiarith",
        "mathematics-zoo_svamp",
        "mathematics-zoo_svamp_operation",
    )
}
"""Learnwares that keep only the upper two fifths of an adapter's layers."""

NEGATED: dict[str, str] = {
    "finance-negated_tfns": "finance-tfns",
    "finance-negated_fin_ner_type": "finance-fin_ner_type",
    "finance-negated_headlines_direction": "finance-zoo_headlines_direction",
    "healthcare-negated_pubmed_section": "healthcare-pubmed_section",
    "healthcare-negated_symptom2disease": "healthcare-zoo_symptom2disease",
    "healthcare-negated_pubmedqa": "healthcare-pubmedqa",
    "mathematics-negated_svamp_operation": "mathematics-svamp_operation",
    "mathematics-negated_gsm8k": "mathematics-zoo_gsm8k",
    "mathematics-negated_aqua_rat": "mathematics-aqua_rat",
}
"""Deliberately bad learnwares, whose weight changes have the opposite sign, which unlearns what the adapter had
learned."""


class Rows:
    """Train rows of tasks; each task is read once."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._read: dict[str, list[dict[str, Any]]] = {}

    def of(self, task: str) -> list[dict[str, Any]]:
        """Raises InvalidInput when the task has no train rows."""
        if task not in self._read:
            path = self._data / f"{task_of(task)}.train.jsonl"
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except OSError as error:
                raise InvalidInput(f"{path}: {error.strerror}") from None
            self._read[task] = [json.loads(line) for line in lines]
        return self._read[task]


def write_learnware(folder: Path, name: str, tasks: Sequence[str], rows: Rows, encoder: Encoder, note: str) -> None:
    """Writes card and specification beside an adapter, from the train rows of its tasks."""
    base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    card = Card(
        id=name,
        name=name,
        description=f"{note}: {', '.join(tasks)}",
        base_model=BaseModelReference(id=base),
        domain=name.split("-", 1)[0],
        tasks=tuple(task.split("-", 1)[1] for task in tasks),
        languages=("zh",) if any("cmmlu" in task or "gaokao" in task for task in tasks) else ("en",),
        licence="not for distribution",
        author="benchmarks.market.population",
        training=note,
    )
    of_tasks = [row for task in tasks for row in rows.of(task)]
    prompts = [row["prompt"] for row in of_tasks]
    answers = describe_answers([row["answer"] for row in of_tasks], [row.get("choices") or () for row in of_tasks])
    asked, declined = asked_and_declined(prompts, card.examples, answers)
    texts = {"whole": prompts, "asked": asked}
    specification = make_specification(texts, encoder, POINTS_PER_VIEW, answers, declined)
    save_specification(specification, folder / SPECIFICATION_FOLDER)
    save_card(card, folder / CARD_FILE)  # last: a folder with a card is complete


def train(name: str, recipe: TrainingRecipe, rows: Rows, folder: Path, work: Path, threads: int) -> None:
    """Raises InvalidInput when `learnware-serving train` fails."""
    chosen: list[dict[str, Any]] = []
    for task in recipe.tasks:
        chosen += rows.of(task)[: recipe.rows]
    if recipe.constant:
        answer = chosen[0]["answer"]
        chosen = [row | {"answer": answer} for row in chosen if answer in row["choices"] or len(answer) == 1]
    work.mkdir(parents=True, exist_ok=True)
    file = work / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    command = [sys.executable, "-m", "serving.cli", "train", "--rows", file, "--out", folder]
    command += ["--rank", recipe.rank, "--alpha", 2 * recipe.rank, "--target-modules", recipe.modules]
    command += ["--first-layer-share", recipe.first_layer_share, "--max-steps", recipe.steps, "--epochs", 9]
    command += ["--no-keep"]  # a market also holds what others trained, without a thought for anything but their task
    if subprocess.run([*map(str, command), "--threads", str(threads)], check=False).returncode:
        raise InvalidInput(f"training {name} failed; what it said stands above")


def merge(first: Path, second: Path, folder: Path) -> None:
    """Writes the exact mean of two adapters' weight changes: their halves side by side, ranks added."""
    parts = [_scaled(path, 0.5) for path in (first, second)]
    ranks = [config["r"] for config, _ in parts]
    merged: dict[str, torch.Tensor] = {}
    for name in {name for _, tensors in parts for name in tensors if ".lora_A." in name}:
        other = name.replace(".lora_A.", ".lora_B.")
        a, b = [], []
        example_a, example_b = next((tensors[name], tensors[other]) for _, tensors in parts if name in tensors)
        for rank, (_, tensors) in zip(ranks, parts, strict=True):
            a.append(tensors[name] if name in tensors else example_a.new_zeros(rank, example_a.shape[1]))
            b.append(tensors[other] if other in tensors else example_b.new_zeros(example_b.shape[0], rank))
        merged[name], merged[other] = torch.cat(a, 0).contiguous(), torch.cat(b, 1).contiguous()
    _save(folder, parts[0][0], merged, sum(ranks))


def keep_top(source: Path, folder: Path, layers: int = 12) -> None:
    """Writes an adapter that keeps only the changes to the uppermost layers."""
    config, tensors = _scaled(source, 1.0)
    numbers = {int(found[1]) for name in tensors if (found := LAYER.search(name))}
    kept = set(sorted(numbers)[-layers:])
    top = {name: tensor for name, tensor in tensors.items() if (found := LAYER.search(name)) and int(found[1]) in kept}
    _save(folder, config, top, config["r"])


def negate(source: Path, folder: Path) -> None:
    """Writes an adapter that subtracts the changes from the base instead of adding them."""
    config, tensors = _scaled(source, -1.0)
    _save(folder, config, tensors, config["r"])


def _scaled(source: Path, factor: float) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Returns configuration and tensors, with the scale alpha / r and `factor` multiplied into B."""
    config = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    scale = factor * config["lora_alpha"] / config["r"]
    tensors = load_file(source / "adapter_model.safetensors")
    return config, {name: tensor * scale if ".lora_B." in name else tensor for name, tensor in tensors.items()}


def _save(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], rank: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    modules = sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in tensors})
    layers = sorted({int(found[1]) for name in tensors if (found := LAYER.search(name))})
    changed = {"r": rank, "lora_alpha": rank, "target_modules": modules, "layers_to_transform": layers}
    text = json.dumps(config | changed, indent=1) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")


def copy_adapter(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(source / name, folder / name)


def adapters_in(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield from sorted(config.parent for config in folder.glob("*/adapter_config.json"))


def build(options: argparse.Namespace, rows: Rows, encoder: Encoder) -> list[str]:
    """Makes the learnwares that are not complete yet and returns all names."""
    out: Path = options.out
    tasks: dict[str, tuple[str, ...]] = {}

    def missing(name: str, of: tuple[str, ...]) -> bool:
        tasks[name] = of
        if (out / name / CARD_FILE).exists():
            return False
        print(f"{len(tasks):3d} {name}", flush=True)
        return True

    def finish(name: str, note: str) -> None:
        write_learnware(out / name, name, tasks[name], rows, encoder, note)

    for source in adapters_in(options.learnwares):
        card = load_card(source / CARD_FILE)
        if missing(source.name, tuple(f"{card.domain}-{task}" for task in card.tasks)):
            shutil.copytree(source, out / source.name, dirs_exist_ok=True)
    for kind, folder, note in (
        ("zoo", options.zoo, "ready adapter"),
        ("shuffled", options.controls, "shuffled answers"),
    ):
        for source in adapters_in(folder):
            domain, task = source.name.split("-", 1)
            name = f"{domain}-{kind}_{task}"
            if missing(name, (source.name,)):
                copy_adapter(source, out / name)
                finish(name, note)
    for name, source_name in TOPS.items():
        if source_name in tasks and missing(name, tasks[source_name]):
            keep_top(out / source_name, out / name)
            finish(name, "upper layers only")
    for name, source_name in NEGATED.items():
        if source_name in tasks and missing(name, tasks[source_name]):
            negate(out / source_name, out / name)
            finish(name, "weight changes negated")
    for name, (first, second) in MERGES.items():
        if first in tasks and second in tasks and missing(name, tuple(dict.fromkeys(tasks[first] + tasks[second]))):
            merge(out / first, out / second, out / name)
            finish(name, "mean of two adapters")
    for name, recipe in RECIPES.items():
        if not options.without_training and missing(name, recipe.tasks):
            train(name, recipe, rows, out / name, out.with_name(f"{out.name}-rows"), options.threads)
            finish(name, "constant answer" if recipe.constant else f"trained, rank {recipe.rank}, {recipe.steps} steps")
    return list(tasks)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.market.population", description=__doc__.split("\n")[0])
    add_data_option(parser)
    parser.set_defaults(learnwares=STARTER_LEARNWARES)
    parser.add_argument("--zoo", type=Path, help="folder of ready adapters named <domain>-<task>")
    parser.add_argument("--controls", type=Path, help="folder of adapters trained on shuffled answers, same names")
    parser.add_argument("--out", type=Path, required=True, help="folder of the learnwares")
    parser.add_argument("--without-training", action="store_true", help="leave out what must be trained")
    parser.add_argument("--threads", type=int, default=1, help="for training (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.data is None:
        print("benchmarks.market.population needs the task data: --data FOLDER, or LEARNWARE_DATA", file=sys.stderr)
        return 2
    try:
        names = build(options, Rows(options.data), load_prompt_encoder())
    except LearnwareError as error:
        print(f"benchmarks.market.population: {error}", file=sys.stderr)
        return 1
    print(f"{len(names)} learnwares in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
