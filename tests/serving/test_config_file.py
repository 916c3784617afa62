"""The printed default configuration: every key is there, says what it means, and loads as the default."""

import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from serving.config import Config, load_config
from serving.config_file import _NOTES, COLUMNS, default_file


def sections(model: type[BaseModel] = Config, path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every model of the configuration with its keys' common beginning, `router.selection.` for example."""
    yield path, model
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation, f"{path}{name}.")


SECTIONS = dict(sections())
NESTED = {path.removesuffix("."): model for path, model in SECTIONS.items() if path}
FIELDS = {
    path + name: field
    for path, model in SECTIONS.items()
    for name, field in model.model_fields.items()
    if path + name not in NESTED
}


def comments() -> dict[str, str]:
    """What stands above each key, in one line, by the key's path."""
    found: dict[str, str] = {}
    parents: list[str] = []
    said: list[str] = []
    for line in default_file().splitlines():
        key = re.match(r"( *)([a-z_]+):", line)
        if line.strip().startswith("#"):
            said.append(line.strip().removeprefix("#").strip())
        elif key:
            parents[len(key[1]) // 2 :] = [key[2]]
            found[".".join(parents)] = " ".join(filter(None, said))
            said = []
        elif not line:
            said = []
    return found


def in_one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def test_the_file_holds_every_key_with_its_default() -> None:
    assert yaml.safe_load(default_file()) == Config().model_dump(mode="json")


def test_the_file_is_read_as_the_default_configuration(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(default_file(), encoding="utf-8")
    assert load_config(path) == Config()


def test_the_keys_are_in_the_order_of_the_models() -> None:
    def keys(model: type[BaseModel], path: str = "") -> Iterator[str]:
        for name in model.model_fields:
            yield path + name
            if path + name in NESTED:
                yield from keys(NESTED[path + name], f"{path}{name}.")

    assert list(comments()) == list(keys(Config))


@pytest.mark.parametrize(("path", "field"), FIELDS.items(), ids=FIELDS)
def test_a_key_says_what_it_means_in_whole_sentences(path: str, field: FieldInfo) -> None:
    assert field.description is not None
    assert len(field.description.split()) > 3
    assert field.description.endswith(".")
    assert comments()[path].startswith(in_one_line(field.description))


@pytest.mark.parametrize(("path", "model"), NESTED.items(), ids=NESTED)
def test_a_section_says_what_it_is_for(path: str, model: type[BaseModel]) -> None:
    assert model.__doc__
    assert comments()[path] == in_one_line(cleandoc(model.__doc__))


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("engine.device", "One of cpu, cuda."),
        ("engine.max_rank", "One of 8, 16, 32, 64, 128, 256."),
        ("http.port", "From 1 to 65,535."),
        ("engine.slots", "At least 1. "),
        ("engine.host_adapter_mib", "Above 0."),
        ("engine.gpu_memory_utilization", "Above 0 and at most 1."),
        ("router.auto_names", "Of length at least 1."),
        ("base_model.id", "the folder's, or the hub id."),
        ("engine.options", "changes it."),
    ],
)
def test_a_key_says_which_values_it_may_have(path: str, allowed: str) -> None:
    said = comments()[path].removesuffix(_NOTES.get(path, ""))
    assert said.endswith(allowed)


@pytest.mark.parametrize("path", _NOTES)
def test_a_defaults_arithmetic_stands_at_its_key(path: str) -> None:
    assert comments()[path].endswith(f" {_NOTES[path]}")


def test_comments_fit_the_columns_and_values_are_never_folded() -> None:
    lines = default_file().splitlines()
    assert [line for line in lines if line.lstrip().startswith("#") and len(line) > COLUMNS] == []
    assert {line.partition(":")[0].strip() for line in lines if len(line) > COLUMNS and "- " not in line} == set()
    (title,) = (line for line in lines if "come up with" in line)
    assert yaml.safe_load(title) == [Config().router.request.interface_tasks[0]]


def test_a_list_is_in_one_line_where_it_fits() -> None:
    lines = [line.strip() for line in default_file().splitlines()]
    assert "auto_names: [auto]" in lines
    assert "pinned: []" in lines
    assert "- system-reminder" in lines
    assert "- 会话" in lines
    assert "path: null" in lines
