"""Training: what it learns, that a cut changes nothing, and that what it writes is a PEFT folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from serving.cli.main import main
from serving.terminal import Progress
from serving.training.adapter import load_base, train_adapter
from serving.training.rows import (
    EncodedRow,
    Row,
    common_prefix,
    encode_prompt,
    encode_rows,
    hold_out,
    read_rows,
    rows_hash,
    shuffle_answers,
)
from serving.training.split_model import Stack, bucket
from specs.adapter import adapter_hash
from specs.errors import InvalidInput
from tests.serving.conftest import toy_recipe

ROOT = Path(__file__).parents[3]


def quiet(*_: object) -> None:
    """Progress that nobody watches."""


def train(data: Path, base: Path, out: Path, **changes: object) -> dict[str, object]:
    """Trains on the toy task and returns the record."""
    rows = read_rows(data / "toy" / "colours.train.jsonl")
    train_adapter(rows, base, "tiny", out, toy_recipe(**changes), quiet, quiet)
    return record_of(out)


def record_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "training.json").read_text())


@pytest.fixture(scope="module")
def trained(colours_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The toy task's adapter, trained in one go, and its record."""
    out = Path(shutil.copytree(colours_adapter, tmp_path_factory.mktemp("trained") / "adapter"))
    return out, record_of(out)


def test_it_learns_the_task_and_shuffled_answers_do_not(trained, colours_control: Path) -> None:
    _, record = trained
    assert record["best"]["exact"] >= 0.9
    assert record["best"]["loss"] < record["history"][0][2]
    control = record_of(colours_control)
    assert control["best"]["exact"] <= 0.8
    assert control["rows_sha256"] == record["rows_sha256"]
    assert control["settings"]["shuffle_answers"] is True


def test_the_folder_is_peft_in_bf16_with_the_bases_id(trained, tiny_base: Path) -> None:
    from peft import PeftModel

    out, record = trained
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert config["layers_to_transform"] == [2, 3]
    assert record["first_layer"] == 2
    weights = load_file(out / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert {name.split(".layers.")[1].split(".")[0] for name in weights} == {"2", "3"}
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
    ]
    model, tokenizer = load_base(tiny_base, "cpu")
    prompt = "Is the colour warm or cold?\nthe old blue house\nAnswer:"
    ids = torch.tensor([encode_prompt(prompt, tokenizer, 64)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        adapted = PeftModel.from_pretrained(model, str(out))
    answer = adapted.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert tokenizer.decode(answer[0, ids.shape[1] :]) == "cold<|im_end|>"


def test_a_finished_run_is_not_run_again(trained, colours: Path, tiny_base: Path) -> None:
    out, record = trained
    before = (out / "adapter_model.safetensors").stat().st_mtime_ns
    assert train(colours, tiny_base, out) == record
    assert (out / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_a_run_stopped_by_time_goes_on_when_given_more(trained, colours: Path, tiny_base: Path, tmp_path: Path) -> None:
    epochs = trained[1]["settings"]["epochs"] // 2
    first = train(colours, tiny_base, tmp_path / "adapter", epochs=epochs, max_seconds=0.1)
    assert first["stopped_by"] == "time"
    second = train(colours, tiny_base, tmp_path / "adapter", epochs=epochs)
    assert second["stopped_by"] == "schedule"
    assert first["steps"] < second["steps"] == trained[1]["steps"] / 2
    assert not (tmp_path / "adapter" / "checkpoint.pt").exists()


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_weights(
    colours: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the same command left alone: another number of threads adds up in another order, and that grows by the
    step."""
    out, alone = tmp_path / "adapter", tmp_path / "alone"
    command = ["train", "--rows", colours / "toy" / "colours.train.jsonl"]
    command += ["--base", tiny_base, "--base-id", "tiny", "--out", out, "--first-layer-share", "0.5", "--batch", "8"]
    command += ["--learning-rate", "1e-2", "--epochs", "4", "--patience", "20", "--max-length", "64", "--threads", "1"]
    command += ["--keep-rows", "8", "--keep-batch", "2", "--cache", tmp_path / "cache"]
    arguments = [str(part) for part in [*command, "--checkpoint-seconds", "0"]]
    undisturbed = [str(alone) if part == str(out) else part for part in arguments]
    assert main(undisturbed) == 0
    expected = record_of(alone)
    program = [sys.executable, "-m", "serving.cli", *arguments]
    process = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "checkpoint.pt").exists():
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "training.json").exists(), "it was to be killed in the middle"
    steps = torch.load(out / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < steps < expected["steps"]
    shown: list[tuple[object, ...]] = []
    monkeypatch.setattr(Progress, "show", lambda _, *what: shown.append(what))
    assert main(arguments) == 0
    assert shown[0] == (steps, expected["steps"], f"resumed at step {steps}")
    whole, resumed = (load_file(folder / "adapter_model.safetensors") for folder in (alone, out))
    assert whole.keys() == resumed.keys()
    worst = max(float((whole[name] - resumed[name]).abs().max()) for name in whole)
    size = max(float(tensor.abs().max()) for tensor in whole.values())
    assert worst <= 0.02 * size
    record = record_of(out)
    assert record["steps"] == expected["steps"]
    assert record["best"]["loss"] == pytest.approx(expected["best"]["loss"], abs=0.02)


def test_another_run_does_not_take_up_the_checkpoint(colours: Path, tiny_base: Path, tmp_path: Path) -> None:
    train(colours, tiny_base, tmp_path / "adapter", max_seconds=0.2)
    record = train(colours, tiny_base, tmp_path / "adapter", seed=5, max_steps=1)
    assert record["steps"] == 1


def test_target_modules_that_the_base_lacks_are_named(colours: Path, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"c_attn.*this base has.*'q_proj'"):
        train(colours, tiny_base, tmp_path / "adapter", target_modules=("c_attn",))


@pytest.mark.parametrize("first", [0, 2])
def test_the_divided_model_gives_what_the_whole_one_gives(first: int, colours: Path, tiny_base: Path) -> None:
    model, tokenizer = load_base(tiny_base, "cpu")
    model.float()
    rows = encode_rows(read_rows(colours / "toy" / "colours.test.jsonl")[:7], tokenizer, 64)
    stack = Stack(model, first, rows[0].prompt[: common_prefix([row.prompt for row in rows])])
    assert stack.divided
    assert len(stack.prefix) > 10
    for _ in range(2):  # the second time from kept activations
        with torch.no_grad():
            ours = stack.log_probs(stack.batch(rows, range(7)))
            plain = Stack(model, 0, [], divided=False)
            theirs = plain.log_probs(plain.batch(rows, range(7)))
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3]
    assert model.config.num_hidden_layers == 4


def test_a_model_that_cannot_be_divided_is_found_out(colours: Path, tiny_base: Path) -> None:
    model, tokenizer = load_base(tiny_base, "cpu")
    rows = encode_rows(read_rows(colours / "toy" / "colours.test.jsonl")[:3], tokenizer, 64)
    stack = Stack(model, 2, rows[0].prompt[:5])
    assert stack.check_integrity(rows) < 0.25
    with pytest.raises(RuntimeError, match="changes log-probabilities"):
        Stack(model, 2, [7, 7, 7, 7, 7]).check_integrity(rows)


@pytest.mark.parametrize(("length", "padded"), [(1, 16), (16, 16), (17, 32), (128, 128), (129, 160), (257, 320)])
def test_lengths_are_padded_to_few_shapes(length: int, padded: int) -> None:
    assert bucket(length) == padded


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "a row is an object with"),
        ('{"prompt": "a"}', "no answer to learn from"),
        ('{"prompt": "a", "answer": "x", "choices": ["y", "z"]}', "neither one of the choices nor the letter"),
        ('{"prompt": "a", "answer": "C", "choices": ["y", "z"]}', "neither one of the choices nor the letter"),
        ('{"prompt": "a", "answer": "b", "choices": "b"}', "must be a list of texts"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n' + line + "\n")
    with pytest.raises(InvalidInput, match=rf"rows\.jsonl, line 2.*{message}"):
        read_rows(path)


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "none"):
        with pytest.raises(InvalidInput, match=name):
            read_rows(tmp_path / name)


def test_shuffling_keeps_prompts_and_the_answers_frequencies() -> None:
    rows = [Row(f"prompt {i}", "AB"[i % 2], ("x", "y")) for i in range(50)]
    rows += [Row(f"wide {i}", "E", tuple("vwxyz")) for i in range(5)]
    shuffled = shuffle_answers(rows, 0)
    assert [row.prompt for row in shuffled] == [row.prompt for row in rows]
    assert sorted(row.answer for row in shuffled) == sorted(row.answer for row in rows)
    assert shuffled != rows
    assert all(row.answer in row.candidates() for row in shuffled)
    assert shuffle_answers(rows, 0) == shuffled
    assert rows_hash(shuffled) != rows_hash(rows)


def test_the_held_out_slice_does_not_depend_on_the_order() -> None:
    rows = [Row(f"prompt {i}", "a") for i in range(100)]
    train_rows, held = hold_out(rows, 0.12, 0)
    assert len(held) == 12
    assert sorted(train_rows + held) == list(range(100))
    backwards = rows[::-1]
    assert {backwards[i].prompt for i in hold_out(backwards, 0.12, 0)[1]} == {rows[i].prompt for i in held}


def test_a_prompt_too_long_loses_its_middle(tiny_base: Path) -> None:
    _, tokenizer = load_base(tiny_base, "cpu")
    whole = encode_prompt("the " * 300 + "house", tokenizer, 10_000)
    cut = encode_prompt("the " * 300 + "house", tokenizer, 60)
    assert len(whole) > 300
    assert cut == whole[:20] + whole[-40:]


def test_the_common_prefix_leaves_each_row_a_token() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 3]]) == 2
    assert common_prefix([[1, 2, 3], [1, 2, 4, 5], [1, 9, 4]]) == 1
    assert common_prefix([[1], [1, 2]]) == 0
    assert common_prefix([]) == 0


def test_the_adapters_hash_changes_with_its_weights(trained, tmp_path: Path) -> None:
    shutil.copytree(trained[0], tmp_path / "copy")
    assert adapter_hash(tmp_path / "copy") == adapter_hash(trained[0])
    weights = tmp_path / "copy" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert adapter_hash(tmp_path / "copy") != adapter_hash(trained[0])


def test_encoded_rows_end_the_turn(tiny_base: Path) -> None:
    _, tokenizer = load_base(tiny_base, "cpu")
    (row,) = encode_rows([Row("hot?", "warm")], tokenizer, 64)
    assert isinstance(row, EncodedRow)
    assert tokenizer.decode(row.prompt + row.answer) == (
        "<|im_start|>user\nhot?<|im_end|>\n<|im_start|>assistant\nwarm<|im_end|>"
    )
    assert tokenizer.decode(row.answer) == "warm<|im_end|>"


def test_a_wrong_option_is_named_and_nothing_is_trained(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = colours / "toy" / "colours.train.jsonl"
    command = ["train", "--rows", str(rows), "--out", str(tmp_path / "out"), "--rank", "512", "--max-minutes", "0"]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "--rank: Input should be less than or equal to 256" in said
    assert "--max-minutes: Input should be greater than 0" in said
    assert not (tmp_path / "out").exists()
