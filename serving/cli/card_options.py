"""The card of a learnware whose provider has none: from options, from the adapter's README, and from answers on a
terminal."""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from specs.card import BaseModelReference, Card, LearnwareId, reason_of
from specs.errors import InvalidInput

DEFAULT_DOMAIN = "general"
"""Domain of a learnware of which nothing else is said."""
README = "README.md"
"""The adapter's own card, as the Hugging Face hub and PEFT write it."""
README_BYTES = 1 << 20
"""Bytes of a README that are read."""
DESCRIPTION_CHARS = 400
"""The longest description that is taken from a README."""
ID_CHARS = 96
"""The longest id."""

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_TELLING = re.compile(r"#+\s.*\b(?:description|summary|overview|about)\b", re.IGNORECASE)
_NO_PROSE = re.compile(r"[#|<>`!\[{*+-]|\d+\.\s")
"""Beginnings of paragraphs that are no sentences: headings, tables, HTML, code, badges, lists."""
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")

Ask = Callable[[str, str], str]
"""Asks for a field by its name, with a default, and returns the answer."""


def add_card_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that fill a card."""
    card = parser.add_argument_group("the card (what people and searches read; a learnware.yaml in SOURCE counts too)")
    card.add_argument("--id", help="id by which requests name it (default: from the source's name)")
    card.add_argument("--name", help="its name for people (default: the id)")
    card.add_argument("--domain", help=f"what it is about in a word, such as finance (default: {DEFAULT_DOMAIN})")
    card.add_argument(
        "--task",
        action="append",
        dest="tasks",
        metavar="TASK",
        help="its task in a word; may be given again (default: from the id)",
    )
    card.add_argument(
        "--language",
        action="append",
        dest="languages",
        metavar="CODE",
        help="an ISO 639-1 code; may be given again (default: the README's, else und, undetermined)",
    )
    card.add_argument("--licence", "--license", dest="licence", help="default: the README's, else unknown")
    card.add_argument("--author", help="default: the owner that SOURCE names, else unknown")
    card.add_argument("--description", help="a sentence or two (default: the README's first, else made from the rest)")
    card.add_argument("--version", type=int, help="default: 1, or with --replace one more than the served one's")


def ask_on_terminal(field: str, default: str) -> str:
    """Asks for a field on the terminal; an empty answer is the default. Without a terminal it is the default."""
    if not sys.stdin.isatty():
        return default
    try:
        return input(f"{field} [{default}]: ").strip() or default
    except EOFError:
        return default


def make_card(
    options: argparse.Namespace, source_name: str, adapter: Path, base: BaseModelReference, ask: Ask = ask_on_terminal
) -> Card:
    """Returns a card for the adapter in the folder `adapter`: what the options say, then what its README says, then
    defaults; id, name, domain and task are asked for where no option says them.

    Raises:
        InvalidInput: an option has a value that a card cannot have.
    """
    said, description = read_readme(adapter / README)
    owner, _, _ = source_name.rpartition("/")
    learnware_id = options.id or ask("id", id_from(source_name))
    name = options.name or ask("name", learnware_id.rpartition("/")[2].replace("-", " ").replace("_", " "))
    domain = options.domain or ask("domain", DEFAULT_DOMAIN)
    tasks = tuple(options.tasks or ask("task", task_from(learnware_id, domain)).split(","))
    described = f"A LoRA adapter of {base.id} for {', '.join(tasks)} ({domain})."
    values: dict[str, Any] = {
        "id": learnware_id,
        "version": options.version or 1,
        "name": name,
        "description": options.description or description or described,
        "base_model": base,
        "domain": domain,
        "tasks": tuple(task.strip() for task in tasks),
        "languages": tuple(options.languages or _texts(said.get("language")) or ["und"]),
        "licence": options.licence or next(iter(_texts(said.get("license"))), "unknown"),
        "author": options.author or owner or "unknown",
    }
    return checked(values)


def changed_card(card: Card, options: argparse.Namespace, **others: Any) -> Card:
    """Returns a card with the fields that options give, and `others`, in the place of its own. Raises InvalidInput, as
    `make_card`."""
    names = ("id", "name", "domain", "tasks", "languages", "licence", "author", "description", "version")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    return checked(card.model_dump() | given | others)


def checked(values: Mapping[str, Any]) -> Card:
    """Returns the card of these values. Raises InvalidInput, which names the ones that a card cannot have."""
    try:
        return Card.model_validate(values)
    except ValidationError as error:
        faults = (
            f"{'.'.join(map(str, fault['loc']))} {fault['input']!r}: {reason_of(dict(fault))}"
            for fault in error.errors()
        )
        raise InvalidInput(f"the card cannot have {'; '.join(faults)}") from None


def id_from(name: str) -> str:
    """Returns the id that a source's name suggests: `owner/name` where ids may be so, else with hyphens for whatever an
    id cannot have."""
    wanted = re.sub(r"[^A-Za-z0-9._/-]+", "-", name)
    for each in (wanted, wanted.replace("/", "-")):
        trimmed = re.sub(r"^[^A-Za-z0-9]+", "", each)[:ID_CHARS].rstrip("-._/")
        try:
            valid: str = TypeAdapter(LearnwareId).validate_python(trimmed)
        except ValidationError:
            continue
        return valid
    return "learnware"


def task_from(learnware_id: str, domain: str) -> str:
    """Returns the task that an id suggests: what stands behind its owner and its domain."""
    return learnware_id.rpartition("/")[2].removeprefix(f"{domain}-").lower()


def read_readme(path: Path) -> tuple[dict[str, Any], str]:
    """Returns the front matter of a README and its first paragraph of prose, before its first section or in one that
    describes; each is empty where there is none. A README that cannot be read counts as none."""
    try:
        with path.open("rb") as file:
            text = file.read(README_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return {}, ""
    found = _FRONT_MATTER.match(text)
    try:
        said = yaml.safe_load(found[1]) if found else {}
    except (yaml.YAMLError, RecursionError, ValueError):
        said = {}
    return said if isinstance(said, dict) else {}, _first_prose(text[found.end() :] if found else text)


def _first_prose(text: str) -> str:
    text = re.sub(r"<!--.*?-->|```.*?(?:```|\Z)", "", text, flags=re.DOTALL)
    telling = True
    for paragraph in re.split(r"\n\s*\n|\n(?=#)", text):
        lines = [line.strip() for line in paragraph.strip().splitlines()]
        if lines and lines[0].startswith("#"):
            telling = not lines[0].startswith("##") or bool(_TELLING.match(lines[0]))
            lines = lines[1:]
        prose = " ".join(lines)
        if not telling or not prose or (_NO_PROSE.match(prose) and not _LINK.match(prose)):
            continue
        words = _LINK.sub(r"\1", prose).replace("**", "").replace("`", "").strip()
        if len(words.split()) >= 4 and "more information needed" not in words.lower():
            return words if len(words) <= DESCRIPTION_CHARS else f"{words[: DESCRIPTION_CHARS - 1].rstrip()}…"
    return ""


def _texts(value: Any) -> list[str]:
    """Returns the texts of a field that holds one or a list."""
    values = value if isinstance(value, list) else [value]
    return [each.strip() for each in values if isinstance(each, str) and each.strip()]
