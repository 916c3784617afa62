"""Makes the market that feedback is replayed on: learnwares of many tasks, and none for the tasks that give feedback.

    python -m benchmarks.learning.market --data DATA --zoo ZOO --out FOLDER

The starters but `WITHOUT`; the upper layers of ready adapters (`TOPS`); deliberately bad ones (`NEGATED`); mixtures of
two (`MERGES`). All change upper layers only, so a matrix is measured in hours on one core. Called again it goes on.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.common.tasks import add_data_option
from benchmarks.market.population import Rows, keep_top, merge, negate, write_learnware
from specs.card import CARD_FILE
from specs.encoding.encoder import load_prompt_encoder
from specs.errors import InvalidInput, LearnwareError

WITHOUT = "mathematics-gsm8k_first_operation"
"""The starter that is left out, so that its task has no learnware of its own."""
TASKS = (
    "finance-headlines_direction",
    "finance-headlines_yesno",
    "finance-fpb",
    "finance-ccfraud_balanced",
    WITHOUT,
    "healthcare-mmlu_health_other",
    "general-arc_easy",
    "healthcare-medmcqa",
    "general-commonsenseqa",
    "finance-german_credit",
    "healthcare-medmcqa_dental",
    "healthcare-medical_abstracts",
)
"""The tasks that give feedback, the cheapest to measure first; no learnware here is of them."""
TOPS = (
    "finance-fin_ner_type",
    "finance-stock_movement_acl18",
    "finance-mmlu_econ_accounting",
    "finance-tatqa",
    "finance-fin_formula",
    "finance-convfinqa",
    "healthcare-pubmed_section",
    "healthcare-symptom2disease",
    "healthcare-mmlu_medical_subject",
    "healthcare-bioasq_yesno",
    "healthcare-mmlu_medical",
    "healthcare-cmmlu_medical",
    "mathematics-mathqa",
    "mathematics-svamp",
    "mathematics-mawps",
    "mathematics-gsm8k",
    "mathematics-svamp_operation",
)
"""Ready adapters of which the upper layers are kept."""
NEGATED = (
    "finance-tfns",
    "finance-fin_ner_type",
    "healthcare-pubmed_section",
    "healthcare-pubmedqa",
    "mathematics-svamp_operation",
    "mathematics-aqua_rat",
)
"""Starters whose weight changes also come with the opposite sign."""
MERGES = {
    "finance-merged_tfns_fiqa": ("finance-tfns", "finance-fiqa_sa"),
    "finance-merged_entities_sentiment": ("finance-fin_ner_type", "finance-tfns"),
    "healthcare-merged_subjects": ("healthcare-mmlu_medical_subject", "healthcare-top_mmlu_medical_subject"),
    "healthcare-merged_symptoms_section": ("healthcare-top_symptom2disease", "healthcare-pubmed_section"),
}
"""Pairs of which the mean is taken."""


def build(starters: Path, zoo: Path, rows: Rows, out: Path) -> list[str]:
    """Makes the learnwares that are not complete yet and returns all names."""
    encoder = load_prompt_encoder()
    names: list[str] = []

    def make(name: str, tasks: Sequence[str], note: str, adapter: Callable[..., None], *sources: Path) -> None:
        names.append(name)
        if not (out / name / CARD_FILE).exists():
            print(name, flush=True)
            adapter(*sources, out / name)
            write_learnware(out / name, name, tasks, rows, encoder, note)

    for source in sorted(one.parent for one in starters.glob(f"*/{CARD_FILE}")):
        if source.name != WITHOUT:
            names.append(source.name)
            shutil.copytree(source, out / source.name, dirs_exist_ok=True)
    for task in TOPS:
        make(task.replace("-", "-top_"), [task], "upper layers only", keep_top, zoo / task)
    for task in NEGATED:
        make(task.replace("-", "-negated_"), [task], "weight changes negated", negate, out / task)
    for name, (first, second) in MERGES.items():
        tasks = list(dict.fromkeys(one.replace("-top_", "-") for one in (first, second)))
        make(name, tasks, "mean of two adapters", merge, out / first, out / second)
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning.market", description=(__doc__ or "").split("\n")[0]
    )
    add_data_option(parser)
    parser.add_argument("--zoo", type=Path, required=True, help="folder of ready adapters named <domain>-<task>")
    parser.add_argument("--out", type=Path, required=True, help="folder of the learnwares")
    options = parser.parse_args(arguments)
    try:
        if options.data is None:
            raise InvalidInput("--data FOLDER (or $LEARNWARE_DATA) must name the tasks' rows")
        names = build(options.learnwares, options.zoo, Rows(options.data), options.out)
    except LearnwareError as error:
        print(f"benchmarks.learning.market: {error}", file=sys.stderr)
        return 1
    print(f"{len(names)} learnwares in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
