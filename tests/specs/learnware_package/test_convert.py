"""Zips of the `learnware` package: the format, without the package."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from specs.adapter import adapter_hash
from specs.capability import Capability, save_capability
from specs.card import load_card
from specs.errors import InvalidInput, InvalidLearnware, InvalidSpecification
from specs.learnware import load_learnware
from specs.learnware_package.convert import export_learnware, import_learnware
from specs.learnware_package.rkme_text import (
    RKMEText,
    as_rkme_text,
    as_specification,
    dump_rkme_text,
    load_rkme_text,
)
from specs.market.objects import fingerprint
from tests.specs.learnware_folder import BASE, PROMPTS, card, write_learnware

MINI = RKMEText(np.ones((2, 384)), np.array([0.25, 0.75]), 0.1, 150, ("en",), None)
"""As the package makes one: in the space of its own encoder."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_learnware(tmp_path / "colours-objects")


@pytest.fixture
def exported(folder: Path, tmp_path: Path) -> Path:
    export_learnware(folder, tmp_path / "exported.zip")
    return tmp_path / "exported.zip"


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path: Path, target: Path, drop: tuple[str, ...] = (), **contents: bytes) -> Path:
    """A zip with entries left out (by the beginning of their names) and others put in."""
    kept = {name: content for name, content in entries(path).items() if not name.startswith(drop)} if drop else {}
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in (kept or entries(path)).items():
            archive.writestr(name, contents.pop(name, content))
        for name, content in contents.items():
            archive.writestr(name, content)
    return target


def foreign(exported: Path, target: Path, rkme: RKMEText = MINI) -> Path:
    """The zip as the package's own users make it: nothing of ours in it."""
    return rewritten(exported, target, drop=("learnware-serving/",), **{"stat.json": dump_rkme_text(rkme)})


def test_an_export_has_what_the_package_reads(exported: Path, folder: Path):
    files = entries(exported)
    said = yaml.safe_load(files["learnware.yaml"])
    assert said["model"] == {
        "class_name": "Model",
        "module_path": "__init__.py",
        "weights_file_path": "weights",
        "required_learnware_ids": [],
        "kwargs": {"base_model": BASE, "base_revision": None},
    }
    (stat,) = said["stat_specifications"]
    assert stat["class_name"] == "RKMETextSpecification"
    values = json.loads(files[stat["file_name"]])
    assert set(values) == {"z", "beta", "gamma", "num_points", "language", "type", "encoder"}
    reduced = load_learnware(folder).specification.whole_set
    assert np.array(values["z"]) == pytest.approx(reduced.points)
    assert np.array(values["beta"]) == pytest.approx(reduced.weights)
    semantics = json.loads(files[said["semantic_specification"]["file_name"]])
    assert semantics["Scenario"]["Values"] == ["Others"]
    assert semantics["Model"]["Values"] == ["Others"]
    assert files["weights/adapter_model.safetensors"] == (folder / "adapter_model.safetensors").read_bytes()
    compile(files["__init__.py"], "__init__.py", "exec")


def test_a_named_base_makes_it_a_peft_model(folder: Path, tmp_path: Path):
    export_learnware(folder, tmp_path / "peft.zip", base="owner/base", needs=["00002890"])
    files = entries(tmp_path / "peft.zip")
    model = yaml.safe_load(files["learnware.yaml"])["model"]
    assert model["required_learnware_ids"] == ["00002890"]
    assert model["kwargs"]["base_model"] == "owner/base"
    assert json.loads(files["semantic_specification.json"])["Model"]["Values"] == ["PEFT Model"]


def test_what_was_exported_comes_back_whole(exported: Path, folder: Path, tmp_path: Path):
    learnware = import_learnware(exported, tmp_path / "back")
    assert learnware.id == "colours-objects"
    assert fingerprint(tmp_path / "back") == fingerprint(folder)
    export_learnware(tmp_path / "back", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == exported.read_bytes()


def test_an_owner_in_the_id_comes_back(tmp_path: Path):
    folder = write_learnware(tmp_path / "folder", "acme/colours")
    export_learnware(folder, tmp_path / "owned.zip")
    assert {name.split("/")[0] for name in entries(tmp_path / "owned.zip")}.isdisjoint({"acme", "colours"})
    assert import_learnware(tmp_path / "owned.zip", tmp_path / "back").id == "acme/colours"
    assert fingerprint(tmp_path / "back") == fingerprint(folder)
    bare = rewritten(tmp_path / "owned.zip", tmp_path / "bare.zip", drop=("learnware-serving/",))
    assert import_learnware(bare, tmp_path / "bare").id == "acme/colours"
    assert import_learnware(bare, tmp_path / "renamed", learnware_id="other/colours").id == "other/colours"


@pytest.mark.parametrize(
    ("said", "becomes"),
    [("a/b/c", "a-b-c"), ("../x", "x"), ("a/../b", "a-..-b"), ("acme/quarantine", "acme-quarantine"), ("a b", "a-b")],
)
def test_an_id_that_is_none_here_becomes_one(exported: Path, tmp_path: Path, said: str, becomes: str):
    values = yaml.safe_load(entries(exported)["learnware.yaml"]) | {"id": said}
    source = rewritten(
        exported, tmp_path / "x.zip", ("learnware-serving/",), **{"learnware.yaml": yaml.safe_dump(values).encode()}
    )
    assert import_learnware(source, tmp_path / "back").id == becomes


@pytest.mark.parametrize("learnware_id", ["../x", "a/b/c", "a\\b", "acme/quarantine", ""])
def test_an_id_to_import_under_is_checked_before_anything_is_written(exported: Path, tmp_path: Path, learnware_id: str):
    with pytest.raises(InvalidInput, match="learnware's id"):
        import_learnware(exported, tmp_path / "back", learnware_id=learnware_id)
    assert not (tmp_path / "back").exists()


def test_whatever_stands_beside_the_specification_comes_along(folder: Path, tmp_path: Path):
    save_capability(Capability(BASE, adapter_hash(folder), "test", {}), folder / "specification")
    export_learnware(folder, tmp_path / "out.zip")
    import_learnware(tmp_path / "out.zip", tmp_path / "back")
    assert fingerprint(tmp_path / "back") == fingerprint(folder)


def test_an_export_that_lost_our_folder_is_specified_by_its_points(exported: Path, folder: Path, tmp_path: Path):
    source = rewritten(exported, tmp_path / "bare.zip", drop=("learnware-serving/",))
    learnware = import_learnware(source, tmp_path / "back", learnware_id="colours-again")
    original = load_learnware(folder).specification
    assert learnware.id == "colours-again"
    assert learnware.specification.gamma == original.gamma
    assert np.abs(learnware.specification.whole_set.points - original.whole_set.points).max() < 1e-3


def test_a_foreign_zip_needs_rows_and_keeps_its_own_specification(exported: Path, tmp_path: Path):
    source = foreign(exported, tmp_path / "foreign.zip")
    with pytest.raises(InvalidLearnware, match="give some rows"):
        import_learnware(source, tmp_path / "no-rows")
    assert not (tmp_path / "no-rows").exists()
    learnware = import_learnware(source, tmp_path / "back", rows=PROMPTS)
    assert (learnware.id, learnware.base_model, learnware.domain) == ("colours-objects", BASE, "general")
    assert [view.name for view in learnware.specification.views] == ["whole"]
    read = load_card(tmp_path / "back" / "learnware.yaml")
    assert (read.name, read.licence, read.author, read.languages) == (
        "Colours of objects",
        "Apache-2.0",
        "unknown",
        ("en",),
    )
    export_learnware(tmp_path / "back", tmp_path / "again.zip")
    assert entries(tmp_path / "again.zip")["stat.json"] == entries(source)["stat.json"]


def test_a_given_card_is_taken(exported: Path, tmp_path: Path):
    own = card("mine", domain="finance")
    learnware = import_learnware(foreign(exported, tmp_path / "f.zip"), tmp_path / "back", card=own, rows=PROMPTS)
    assert (learnware.id, learnware.domain) == ("mine", "finance")


def test_code_in_the_zip_is_neither_run_nor_kept(exported: Path, tmp_path: Path):
    bomb = b"raise SystemExit('executed')"
    source = rewritten(exported, tmp_path / "bomb.zip", **{"__init__.py": bomb, "../escape.py": bomb, "x.pkl": bomb})
    import_learnware(source, tmp_path / "back")
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".json", ".yaml", ".safetensors", ".zip"}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("learnware.yaml", b"- a list", "must hold keys and values"),
        ("learnware.yaml", b"!!python/object/apply:os.system [true]", "cannot be read"),
        ("learnware.yaml", b"model: {weights_file_path: 3}", "must be the name of a folder"),
        ("learnware.yaml", b"model: {weights_file_path: elsewhere}", "elsewhere/adapter_config.json is missing"),
        ("stat.json", b"{", "no RKMETextSpecification"),
        ("weights/adapter_model.safetensors", b"cut", "adapter_model.safetensors"),
        ("weights/adapter_config.json", b" " * (2 << 20), "larger than 1 MiB"),
    ],
)
def test_a_fault_is_named(exported: Path, tmp_path: Path, name: str, content: bytes, reason: str):
    with pytest.raises((InvalidLearnware, InvalidSpecification), match=reason):
        import_learnware(rewritten(exported, tmp_path / "bad.zip", **{name: content}), tmp_path / "back")


def test_what_is_no_zip_or_no_place_is_refused(exported: Path, folder: Path, tmp_path: Path):
    (tmp_path / "no.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(InvalidLearnware, match="not a whole zip"):
        import_learnware(tmp_path / "no.zip", tmp_path / "back")
    with pytest.raises(InvalidInput, match="cannot be read"):
        import_learnware(tmp_path / "missing.zip", tmp_path / "back")
    with pytest.raises(InvalidInput, match="is not empty"):
        import_learnware(exported, folder)
    with pytest.raises(InvalidInput, match="cannot be written"):
        export_learnware(folder, tmp_path / "missing" / "x.zip")


def test_points_go_to_the_package_and_back(folder: Path):
    specification = load_learnware(folder).specification
    back = as_specification(load_rkme_text(dump_rkme_text(as_rkme_text(specification, ("en",)))))
    assert back.whole_set.points == pytest.approx(specification.whole_set.points)
    assert back.whole_set.weights == pytest.approx(specification.whole_set.weights)
    with pytest.raises(InvalidSpecification, match="package's own encoder"):
        as_specification(MINI)
    with pytest.raises(InvalidSpecification, match="other data of encoder"):
        as_specification(as_rkme_text(specification, ())._replace(encoder=(specification.encoder_id, "0")))


def values(**changes: Any) -> bytes:
    return json.dumps(json.loads(dump_rkme_text(MINI)) | changes).encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff", "no RKMETextSpecification"),
        (b"[]", "no RKMETextSpecification"),
        (values(type="RKMETableSpecification"), "its type is"),
        (values(z=[1.0, 2.0]), "z has shape"),
        (values(beta=[1.0]), "z has shape"),
        (values(z=[[1.0], [2.0, 3.0]]), "no RKMETextSpecification"),
        (values(beta=[-0.5, 1.5]), "beta must be"),
        (values(beta=[float("nan"), 1.0]), "must be finite"),
        (values(gamma=0), "must be finite"),
        (values(encoder="mini"), "no RKMETextSpecification"),
    ],
)
def test_a_wrong_rkme_is_refused(content: bytes, reason: str):
    with pytest.raises(InvalidSpecification, match=reason):
        load_rkme_text(content)
