"""Layouts in which people have adapters: which files of each are taken, and what is said of the others."""

from collections.abc import Iterable

import pytest

from specs.errors import InvalidLearnware
from specs.market.contents import Choice, choose

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def under(folder: str, names: Iterable[str] = ADAPTER) -> list[str]:
    return [f"{folder}/{name}" for name in names]


def targets(choice: Choice) -> dict[str, str]:
    """The source of each file in the learnware's folder."""
    return {target: source for source, target in choice.files.items()}


def test_one_sub_folder_is_the_adapters_however_deep() -> None:
    choice = choose([*under("a/b/default"), "a/b/default/tokenizer.json", "a/b/README.md", "a/LICENSE", "a/README.md"])
    assert targets(choice) == {
        "adapter_config.json": "a/b/default/adapter_config.json",
        "adapter_model.safetensors": "a/b/default/adapter_model.safetensors",
        "README.md": "a/b/README.md",
        "LICENSE": "a/LICENSE",
    }
    assert choice.left_out == ("a/README.md", "a/b/default/tokenizer.json")
    assert choice.notes == ("the adapter in a/b/default is taken",)


def test_of_checkpoints_alone_the_highest_step_is_taken_and_said() -> None:
    names = [*under("out/checkpoint-9"), *under("out/checkpoint-100"), *under("out/checkpoint-20"), "out/runs/1/events"]
    choice = choose(names)
    assert targets(choice)["adapter_config.json"] == "out/checkpoint-100/adapter_config.json"
    assert choice.left_out == ("out/checkpoint-20/", "out/checkpoint-9/", "out/runs/")
    assert choice.notes == (
        "out/checkpoint-100, at step 100, the last of 3 checkpoints, is taken: no adapter lies beside the checkpoints",
    )


@pytest.mark.parametrize("final", ["", "final/"])
def test_an_adapter_beside_checkpoints_is_preferred(final: str) -> None:
    names = [f"{final}{name}" for name in ADAPTER]
    choice = choose([*names, *under("checkpoint-5")])
    assert list(choice.files) == names
    assert choice.left_out == ("checkpoint-5/",)


def test_several_adapters_are_listed_with_how_to_name_one() -> None:
    with pytest.raises(
        InvalidLearnware,
        match=r"holds 3 adapters, in a, b, c/d; name one of them as the source, such as SOURCE/a$",
    ):
        choose([*under("a"), *under("b"), *under("c/d")])
    with pytest.raises(InvalidLearnware, match=r"holds 40 adapters, in 00, .* and 32 more;"):
        choose([name for number in range(40) for name in under(f"{number:02}")])


@pytest.mark.parametrize(
    ("folders", "initial"),
    [
        (["pissa_init"], "pissa_init"),
        (["start"], "start"),
        (["initial", "other"], "initial"),
        (["initial_adapter", "checkpoint-3"], "initial_adapter"),
        (["first", "second"], None),
        (["checkpoint-3"], None),
        (["deep/initial"], None),
    ],
)
@pytest.mark.parametrize("root", ["", "pack/"])
def test_an_initial_adapter_is_kept_in_its_own_folder(folders: list[str], initial: str | None, root: str) -> None:
    names = [f"{root}{name}" for name in ADAPTER]
    names += [f"{root}{name}" for folder in folders for name in under(folder)]
    choice = choose(names)
    kept = {target: source for target, source in targets(choice).items() if target.startswith("initial_adapter/")}
    expected = {f"initial_adapter/{name}": f"{root}{initial}/{name}" for name in ADAPTER} if initial else {}
    assert kept == expected


def test_pickled_weights_are_taken_only_where_asked_and_where_there_are_no_others() -> None:
    pickle = ["adapter_config.json", "adapter_model.bin"]
    with pytest.raises(
        InvalidLearnware,
        match=r"x/adapter_model\.bin: only .* `learnware-serving learnware add SOURCE --convert-pickle`",
    ):
        choose(under("x", pickle))
    assert set(choose(pickle, pickled=True).files) == set(pickle)
    both = choose([*ADAPTER, "adapter_model.bin"], pickled=True)
    assert both.left_out == ("adapter_model.bin",)
    assert set(choose([*ADAPTER, *under("initial", pickle)]).files) == set(ADAPTER)
    assert "initial/adapter_model.bin" in choose([*ADAPTER, *under("initial", pickle)], pickled=True).files


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "an adapter's adapter_config.json and adapter_model.safetensors were looked for at the top and in every"),
        (["notes.txt"], "every folder below, among 1 files"),
        (["config.json", "model.safetensors"], "model.safetensors is a whole model: .*mergekit-extract-lora"),
        (["m/model-00001-of-00002.safetensors"], "model-00001-of-00002.safetensors is a whole model"),
        (["pytorch_model.bin"], "pytorch_model.bin is a whole model"),
        (["SmolLM.Q4_K_M.gguf"], "is a whole model"),
        (["adapter_model.safetensors"], "adapter_config.json is missing beside adapter_model.safetensors"),
        (["adapter_config.json"], "adapter_model.safetensors is missing beside adapter_config.json"),
        (
            ["adapter_config.json", "adapter_model-00001-of-00002.safetensors"],
            "adapter_model-00001-of-00002.safetensors is one part of it",
        ),
    ],
)
def test_what_has_no_adapter_is_refused_with_what_would_help(names: list[str], reason: str) -> None:
    with pytest.raises(InvalidLearnware, match=reason):
        choose(names)


def test_ten_thousand_names_are_looked_at_in_no_time() -> None:
    names = [f"{'a/' * 500}{number}/adapter_config.json" for number in range(2000)]
    names += [f"{number}/{name}" for number in range(4000) for name in ADAPTER]
    with pytest.raises(InvalidLearnware, match="holds 4000 adapters"):
        choose(names)
