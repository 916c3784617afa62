"""Reading a catalogue again gives what reading it for the first time gives, whatever changed in between."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from specs.errors import InvalidInput
from specs.market.catalogue import (
    CATALOGUE_FILE,
    Catalogue,
    CatalogueReader,
    Entry,
    read_catalogue,
    write_catalogue,
)

STATES = st.lists(
    st.lists(st.tuples(st.sampled_from("abcdefghij"), st.integers(1, 3)), unique_by=lambda pair: pair[0], max_size=10),
    min_size=1,
    max_size=8,
)


def catalogue(root: Path, sequence: int, ids: list[tuple[str, int]]) -> Catalogue:
    entries = [
        Entry(name, version, f"{name}{version}" * 16, root / "objects" / (f"{name}{version}" * 16))
        for name, version in sorted(ids)
    ]
    return Catalogue(sequence, tuple(entries))


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(STATES)
def test_a_reader_sees_each_state_as_a_new_one_does(tmp_path_factory: pytest.TempPathFactory, states) -> None:
    root = tmp_path_factory.mktemp("market")
    reader = CatalogueReader(root)
    for sequence, ids in enumerate(states):
        expected = catalogue(root, sequence, ids)
        write_catalogue(root, expected)
        assert reader.read() == expected
        assert read_catalogue(root) == expected


def test_entries_that_stay_are_not_parsed_again(tmp_path: Path) -> None:
    reader = CatalogueReader(tmp_path)
    write_catalogue(tmp_path, catalogue(tmp_path, 1, [(name, 1) for name in "abdf"]))
    before = reader.read().entries
    write_catalogue(tmp_path, catalogue(tmp_path, 2, [(name, 1) for name in "abcdf"]))
    after = reader.read().entries
    assert [entry.id for entry in after] == list("abcdf")
    assert all(old is new for old, new in zip(before, [*after[:2], *after[3:]], strict=True))


def test_a_torn_file_is_refused_and_the_next_one_is_read(tmp_path: Path) -> None:
    reader = CatalogueReader(tmp_path)
    expected = catalogue(tmp_path, 1, [("a", 1), ("b", 1)])
    write_catalogue(tmp_path, expected)
    whole = (tmp_path / CATALOGUE_FILE).read_bytes()
    reader.read()
    for end in range(len(whole) - 1):
        (tmp_path / CATALOGUE_FILE).write_bytes(whole[:end])
        with pytest.raises(InvalidInput, match="cannot be read"):
            reader.read()
    (tmp_path / CATALOGUE_FILE).write_bytes(whole)
    assert reader.read() == expected


def test_the_same_json_in_another_layout_is_read(tmp_path: Path) -> None:
    (tmp_path / CATALOGUE_FILE).write_text(
        '{"sequence": 3, "learnwares": [{"id": "a", "version": 2, "sha256": "00", "folder": "objects/00"}]}'
    )
    assert CatalogueReader(tmp_path).read() == Catalogue(3, (Entry("a", 2, "00", tmp_path / "objects" / "00"),))
