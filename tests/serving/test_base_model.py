"""The base model is whole or made again, whatever happens; other sources are checked before an engine is started."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.base_model import EMBEDDED_ID, base_model_id, ensure_base_model, is_complete
from specs.errors import StartupError

COMMAND = [sys.executable, "-m", "serving.cli", "base-model", "embedded", "--cache"]
ROOT = Path(__file__).parents[2]


def start(cache: Path) -> "subprocess.Popen[str]":
    """The command in a process of its own."""
    return subprocess.Popen(
        [*COMMAND, str(cache)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The embedded base after one process was killed while converting and two were started at once; their output."""
    cache = tmp_path_factory.mktemp("cache")
    killed = start(cache)
    deadline = time.monotonic() + 60
    while not list(cache.glob("base-models/.Smol*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert list(cache.glob("base-models/.Smol*")), "the process was to be killed in the middle"
    assert not list(cache.glob("base-models/Smol*"))
    both = [start(cache), start(cache)]
    outputs = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    folder = Path(outputs[0].strip().splitlines()[-1])
    assert outputs[1].strip().splitlines()[-1] == str(folder)
    return folder, outputs


@pytest.mark.slow
def test_a_killed_conversion_leaves_nothing_and_two_at_once_make_one(embedded: tuple[Path, list[str]]) -> None:
    folder, outputs = embedded
    assert sum("converting" in output for output in outputs) == 1
    assert sum("another process" in output for output in outputs) == 1
    assert [path.name for path in folder.parent.iterdir() if path.name != ".lock"] == [folder.name]
    assert is_complete(folder)
    said: list[str] = []
    assert ensure_base_model("embedded", folder.parents[1], said.append) == folder
    assert said == []


@pytest.mark.slow
def test_the_embedded_base_keeps_its_tokenizer_and_speaks(embedded: tuple[Path, list[str]]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = embedded
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert "Digits" in json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"]["pretokenizers"][0]["type"]
    assert tokenizer.tokenize("In 2024, 12.5%") == ["In", "Ġ", "2", "0", "2", "4", ",", "Ġ", "1", "2", ".", "5", "%"]
    assert tokenizer.decode(tokenizer("naïve 価格 3€\n  x").input_ids) == "naïve 価格 3€\n  x"
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.model_max_length == 8192
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == tokenizer.eos_token_id
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    text = tokenizer.decode(inputs["input_ids"][0])
    assert text.startswith("<|im_start|>system\n")
    assert text.endswith("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :])


def test_a_folder_counts_as_complete_only_with_every_byte(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"12345")
    assert not is_complete(tmp_path)
    manifest = tmp_path / "complete.json"
    manifest.write_text('{"bytes": {"weights": 5}}')
    assert is_complete(tmp_path)
    (tmp_path / "weights").write_bytes(b"1234")
    assert not is_complete(tmp_path)
    (tmp_path / "weights").unlink()
    assert not is_complete(tmp_path)
    manifest.write_text('{"bytes": ')
    assert not is_complete(tmp_path)


def test_a_local_folder_is_used_as_it_is(tiny_base: Path, tmp_path: Path) -> None:
    assert ensure_base_model(str(tiny_base), tmp_path, print) == tiny_base
    assert base_model_id(str(tiny_base)) == "tiny-llama"
    assert base_model_id("embedded") == EMBEDDED_ID
    assert base_model_id("owner/name") == "owner/name"
    assert list(tmp_path.iterdir()) == []


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def split_index(folder: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def not_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_weights, "truncated"),
        (split_index, "lacks weights that its index names: model-1"),
        (no_tokenizer, "no tokenizer"),
        (no_weights, "no weights"),
        (broken_config, "config.json cannot be read"),
        (not_weights, "not a safetensors file"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_reason(damage, message: str, tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_base, folder)
    damage(folder)
    with pytest.raises(StartupError, match=message):
        ensure_base_model(str(folder), tmp_path, print)


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/model", "a/b/c", "with space", ""])
def test_what_is_neither_folder_nor_hub_id_is_said_at_once(source: str, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"does not exist|no base model"):
        ensure_base_model(source, tmp_path, print)


def test_a_hub_id_without_network_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(StartupError, match=r"nobody/nothing.*'embedded' or a local folder"):
        ensure_base_model("nobody/nothing", tmp_path, print)


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="LEARNWARE_CACHE"):
        ensure_base_model("embedded", tmp_path / "file", print)


def test_the_revision_of_a_hub_id_is_the_one_that_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for revision in ("0a1b2c3", None):
        with pytest.raises(StartupError, match="no network"):
            ensure_base_model("someone/some-model", tmp_path, print, revision)
    assert asked == [("someone/some-model", "0a1b2c3"), ("someone/some-model", None)]
