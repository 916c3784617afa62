"""Learnwares' ids: a name, or an owner and a name; never anything that could be taken for a path."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from specs.card import CARD_FILE, ID_LENGTH, RESERVED_NAMES, id_fault, load_card, save_card
from specs.errors import InvalidLearnware
from tests.specs.learnware_folder import card

GOOD = [
    "a",
    "7",
    "finance-tfns",
    "a.b_c-d",
    "a..b",
    "a.",
    "acme/tfns",
    "Acme-2/T.f_n-s",
    "quarantine",
    "quarantine/tfns",
    "acme/quarantine-2",
    "a" * ID_LENGTH,
    "a/" + "b" * (ID_LENGTH - 2),
]
HOSTILE = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    "a/b/c",
    "../x",
    "x/..",
    "./x",
    "x/.",
    "a/../b",
    "a/.b",
    ".a/b",
    "..",
    ".",
    "-a",
    "a/-b",
    "_a",
    "a/_b",
    "a\\b",
    "a\\..\\b",
    "a%2Fb",
    "a%b",
    "a b",
    " a",
    "a/b ",
    "a\n",
    "a/b\n",
    "a\r\nx-other: 1",
    "a\0b",
    "a\x7f",
    "a@b",
    "a:b",
    "task:" + "0" * 32,
    "a?b",
    "a#b",
    "a'b",
    'a"b',
    "ä",
    "a/ä",
    "a\N{FULLWIDTH SOLIDUS}b",
    "a\N{DIVISION SLASH}b",
    "a" * (ID_LENGTH + 1),
    "a/" + "b" * (ID_LENGTH - 1),
]


@pytest.mark.parametrize("value", GOOD)
def test_a_name_or_an_owner_and_a_name_is_an_id(value: str, tmp_path: Path) -> None:
    assert id_fault(value) is None
    save_card(card(value), tmp_path / CARD_FILE)
    assert load_card(tmp_path / CARD_FILE).id == value


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_anything_else_is_refused_with_what_would_be_right(value: str, tmp_path: Path) -> None:
    assert "an owner and a name with a slash between them, of up to 96 characters" in str(id_fault(value))
    with pytest.raises(ValidationError):
        card(value)
    save_card(card(), tmp_path / CARD_FILE)
    text = yaml.safe_load((tmp_path / CARD_FILE).read_text()) | {"id": value}
    (tmp_path / CARD_FILE).write_text(yaml.safe_dump(text))
    with pytest.raises(InvalidLearnware, match=r"^learnware\.yaml: id: .* is no learnware's id: an id is a name"):
        load_card(tmp_path / CARD_FILE)


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_a_path_below_a_learnware_is_no_learnware(name: str) -> None:
    assert f"after the slash '{name}' is reserved" in str(id_fault(f"acme/{name}"))
    assert id_fault(name) is None
    with pytest.raises(ValidationError, match="is reserved"):
        card(f"acme/{name}")


def test_a_long_id_is_shown_by_its_beginning() -> None:
    assert len(str(id_fault("a" * 100_000))) < 500
