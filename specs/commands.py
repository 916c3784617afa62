"""`learnware-serving spec …`: makes a learnware's specification from its rows, on this machine."""

import argparse
import json
from pathlib import Path

from specs.errors import InvalidInput

ROW_LIMIT = 5_000
"""Rows that are read: the reduced set has 50 points a view, and more rows do not move them."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `spec` with its subcommands to the project's command line."""
    spec = subparsers.add_parser("spec", help="make and inspect learnware specifications")
    commands = spec.add_subparsers(required=True, metavar="COMMAND")

    make = commands.add_parser(
        "make-learnware",
        help="write learnware.yaml and specification/ into a folder that holds an adapter",
        description="Reads rows (JSON lines with a `prompt`) and a card, and writes the card and the specification "
        "into the learnware's folder. Rows stay here: a specification holds points in the encoder's space, no text.",
    )
    make.add_argument("folder", type=Path, help="the learnware's folder")
    make.add_argument("--rows", type=Path, required=True, help="training rows, JSON lines with a `prompt`")
    make.add_argument("--card", type=Path, help="the card to write (default: learnware.yaml of the folder, as it is)")
    make.add_argument("--points", type=int, help="reduced points of each view (default: 50)")
    make.set_defaults(run=_make)

    show = commands.add_parser("show", help="check a learnware's folder and say what its specification holds")
    show.add_argument("folder", type=Path)
    show.set_defaults(run=_show)


def _make(options: argparse.Namespace) -> int:
    from specs.card import CARD_FILE, load_card, save_card
    from specs.encoder import STATIC_ENCODER, load_encoder
    from specs.learnware import SPECIFICATION_FOLDER
    from specs.specification import POINTS_PER_VIEW, make_specification, save_specification
    from specs.views import bare_prompt

    folder: Path = options.folder
    card = load_card(options.card or folder / CARD_FILE)
    prompts = _read_prompts(options.rows)
    texts = {"whole": prompts, "bare": [bare_prompt(prompt) for prompt in prompts], "examples": card.examples}
    specification = make_specification(texts, load_encoder(STATIC_ENCODER), options.points or POINTS_PER_VIEW)
    save_specification(specification, folder / SPECIFICATION_FOLDER)
    save_card(card, folder / CARD_FILE)
    points = sum(len(view.points) for view in specification.views)
    print(f"{card.id}: {points} points from {len(prompts)} rows and {len(card.examples)} examples, in {folder}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from specs.learnware import load_learnware

    learnware = load_learnware(options.folder)
    specification = learnware.specification
    print(f"{learnware.id}, version {learnware.version}: {learnware.name}")
    print(f"{learnware.domain}; rank {learnware.rank} on {learnware.base_model}; {learnware.licence}")
    print(f"encoder {specification.encoder_id}, gamma {specification.gamma:.3f}")
    for view in specification.views:
        print(f"  {view.name:<9} {len(view.points):>4} points for {view.rows} texts")
    return 0


def _read_prompts(path: Path) -> list[str]:
    prompts: list[str] = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip() and len(prompts) < ROW_LIMIT:
                    prompts.append(_prompt_of(line, f"{path.name}, line {number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the rows {path} cannot be read: {error}") from None
    if not prompts:
        raise InvalidInput(f"{path} holds no rows")
    return prompts


def _prompt_of(line: str, place: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidInput(f"{place} is not JSON: {error}") from None
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidInput(f"{place}: a row needs a `prompt` with some text")
    return prompt
