"""The texts of a card: their lengths and characters."""

from pathlib import Path

import pytest
import yaml

from specs.card import CARD_FILE, load_card, save_card
from specs.card_text import FIELDS, Kind, printable, text_fault
from specs.errors import InvalidLearnware
from specs.learnware import learnware_folders
from tests.specs.learnware_folder import card

STARTERS = Path(__file__).parents[2] / "serving" / "starter_learnwares"
HARMLESS = [
    "Jane Doe <jane@example.org>",
    "a < b and b > c, 3 <4",
    "می\u200cخواهم",  # Persian, with a joiner that its spelling needs
    "👩\u200d🔬",
    "Café Ångström 数学 עברית",
]
NAMES = [name for name, kind in FIELDS.items() if not kind.prose]
PROSE = [name for name, kind in FIELDS.items() if kind.prose]


def write(folder: Path, field: str, text: str) -> Path:
    """A card with a text in a field; a field of several texts has that one alone."""
    path = folder / CARD_FILE
    save_card(card(), path)
    values = yaml.safe_load(path.read_text())
    values.setdefault("semantics", {})
    section, _, name = field.rpartition(".")
    place = values[section] if section else values
    place[name] = [text] if name in ("tasks", "languages", "scenarios", "examples") else text
    path.write_text(yaml.safe_dump(values, allow_unicode=True))
    return path


@pytest.mark.parametrize("field", FIELDS)
def test_no_text_of_a_card_is_longer_than_its_field(tmp_path: Path, field: str):
    length = FIELDS[field].length
    load_card(write(tmp_path, field, "x" * length))
    with pytest.raises(InvalidLearnware, match=rf"{field} has {length + 1} characters; {length} are the most"):
        load_card(write(tmp_path, field, "x" * (length + 1)))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "character", ["\x1b", "\x07", "\x7f", "\u202e", "\u2066", "\u200e", "\u2028", "\ufeff", "\U000e0041"]
)
def test_no_text_of_a_card_holds_what_is_not_shown(tmp_path: Path, field: str, character: str):
    with pytest.raises(InvalidLearnware, match=rf"{field} holds the character U\+{ord(character):04X} "):
        load_card(write(tmp_path, field, f"ab{character}cd"))


@pytest.mark.parametrize("field", NAMES)
@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "x<img src=x>", "</b>", "<a@b href=x>", "<!--"])
def test_names_hold_no_markup(tmp_path: Path, field: str, text: str):
    with pytest.raises(InvalidLearnware, match=f"{field} holds what a page may take for markup"):
        load_card(write(tmp_path, field, text[: FIELDS[field].length]))
    with pytest.raises(InvalidLearnware, match=f"{field} holds the character U"):
        load_card(write(tmp_path, field, "two\nlines"))


@pytest.mark.parametrize("text", HARMLESS)
def test_what_people_write_is_taken(tmp_path: Path, text: str):
    for field in NAMES:
        assert load_card(write(tmp_path, field, text))
    for field in PROSE:
        assert load_card(write(tmp_path, field, f"{text}\n\tand <b>this</b>"))


def test_lists_and_versions_are_bounded(tmp_path: Path):
    path = write(tmp_path, "tasks", "x")
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | {"tasks": [f"t{number}" for number in range(257)]}))
    with pytest.raises(InvalidLearnware, match="tasks has 257 entries; 256 are the most"):
        load_card(path)
    path.write_text(yaml.safe_dump(values | {"version": 1 << 64}))
    with pytest.raises(InvalidLearnware, match="version must be at most"):
        load_card(path)


def test_a_card_with_thousands_of_faults_has_a_short_message(tmp_path: Path):
    path = write(tmp_path, "tasks", "x")
    path.write_text(path.read_text() + "".join(f"k{number}{'x' * 50}: 1\n" for number in range(900)))
    with pytest.raises(InvalidLearnware, match="and 895 more") as refused:
        load_card(path)
    assert len(str(refused.value)) < 2000


@pytest.mark.parametrize("content", [b"[" * 200_000, b"a: &a [x]\nb: *a\n", b"{" * 5000])
def test_a_card_that_is_a_bomb_is_an_invalid_learnware(tmp_path: Path, content: bytes):
    (tmp_path / CARD_FILE).write_bytes(content)
    with pytest.raises(InvalidLearnware, match=f"{CARD_FILE} is not YAML as a card is written"):
        load_card(tmp_path / CARD_FILE)


def test_the_starters_keep_the_bounds():
    assert [load_card(folder / CARD_FILE).id for folder in learnware_folders(STARTERS)]


def test_a_text_can_be_made_printable():
    kind = Kind(5)
    made = printable("a\x1b\u202ebcdefg", kind)
    assert (made, text_fault(made, kind)) == ("abcde", None)
    assert printable("a\nb\x00", Kind(5, prose=True)) == "a\nb"
