"""What adapters do off their task, measured without an engine."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serving.cli.main import main
from serving.training.adapter import load_base, older_names
from serving.training.drift import DriftMeter
from serving.training.rows import encode_prompt
from specs.adapter import adapter_hash
from specs.capability import Capability, ProbeScore, load_capability, save_capability
from specs.card import BaseModelReference, Card, load_card, save_card
from specs.errors import InvalidLearnware
from specs.off_task import MAX_TOKENS, Kind

PROMPTS = {Kind.EVERYDAY: ["Is the colour warm or cold?", "a red house", "the blue car", "old"], Kind.DOMAIN: ["green"]}


def quiet(*_: object) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def adapter(colours_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A learnware's folder with adapter and card."""
    folder = Path(shutil.copytree(colours_adapter, tmp_path_factory.mktemp("drift") / "toy-colours"))
    card = Card(
        id="toy-colours",
        name="Colours",
        description="Says whether a colour is warm or cold.",
        base_model=BaseModelReference(id="tiny"),
        domain="toy",
        tasks=("colours",),
        languages=("en",),
        licence="Apache-2.0",
        author="tests",
        examples=("Is red warm or cold?", "And blue?", "green, warm or cold"),
    )
    save_card(card, folder / "learnware.yaml")
    return folder


@pytest.fixture(scope="module")
def idle(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter with next to nothing to write back: it changes nothing that a number of its type could show."""
    folder = Path(shutil.copytree(adapter, tmp_path_factory.mktemp("idle") / "toy-idle"))
    tensors = load_file(folder / "adapter_model.safetensors")
    zero = {name: tensor * 1e-9 if "lora_B" in name else tensor for name, tensor in tensors.items()}
    save_file(zero, folder / "adapter_model.safetensors")
    return folder


def test_an_adapter_that_changes_nothing_does_not_drift(idle: Path, tiny_base: Path, tmp_path: Path) -> None:
    scores = DriftMeter(tiny_base, tmp_path).measure(idle, PROMPTS)
    assert {kind: found.prompts for kind, found in scores.items()} == {Kind.EVERYDAY: 4, Kind.DOMAIN: 1}
    for found in scores.values():
        assert found.drift == pytest.approx(0, abs=0.02)
        assert found.degenerate == 0


def test_drift_is_the_difference_that_the_plain_models_give(adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    meter = DriftMeter(tiny_base, tmp_path)
    meter.model.float()
    found = meter.measure(adapter, PROMPTS)[Kind.EVERYDAY]
    model, tokenizer = load_base(tiny_base, "cpu")
    model.float()
    answers = meter.base_answers(PROMPTS[Kind.EVERYDAY])
    sums: list[float] = []
    for system in ("base", "adapter"):
        with older_names():
            used = model if system == "base" else PeftModel.from_pretrained(model, str(adapter)).float()
        total = 0.0
        for prompt, answer in zip(PROMPTS[Kind.EVERYDAY], answers, strict=True):
            ids = encode_prompt(prompt, tokenizer, 512)
            with torch.no_grad():
                logits = used(torch.tensor([ids + list(answer.tokens)])).logits[0, len(ids) - 1 : -1].float()
            total += float(torch.log_softmax(logits, -1).gather(1, torch.tensor(answer.tokens)[:, None]).sum())
        sums.append(total)
    tokens = sum(len(answer.tokens) for answer in answers)
    assert found.drift == pytest.approx((sums[1] - sums[0]) / tokens, abs=1e-3)
    assert found.drift < -0.01


def test_the_base_is_the_base_again_after_an_adapter(adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    meter = DriftMeter(tiny_base, tmp_path / "first")
    first = meter.measure(adapter, PROMPTS)
    assert meter.measure(adapter, PROMPTS) == first
    answers = meter.base_answers(PROMPTS[Kind.EVERYDAY])
    meter._cache = tmp_path / "second"
    again = meter.base_answers(PROMPTS[Kind.EVERYDAY])
    assert [answer.tokens for answer in again] == [answer.tokens for answer in answers]
    assert all(len(answer.tokens) <= MAX_TOKENS for answer in answers)


def test_answers_that_are_no_numbers_are_said(adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(adapter, tmp_path / "broken"))
    tensors = load_file(broken / "adapter_model.safetensors")
    save_file({name: tensor * 1e20 for name, tensor in tensors.items()}, broken / "adapter_model.safetensors")
    with pytest.raises(InvalidLearnware, match="not finite numbers"):
        DriftMeter(tiny_base, tmp_path).measure(broken, PROMPTS)


def measure(base: Path, cache: Path, *arguments: object) -> int:
    options = ["--base", base, "--base-id", "tiny", "--cache", cache, "--threads", 1]
    few = ["--everyday", 3, "--domain", 2, "--material", 2]
    return main(["measure", *map(str, (*arguments, *options, *few))])


def test_the_command_writes_what_it_measured_and_keeps_the_rest(
    adapter: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "toy-colours"))
    probes = {"toy-colours": ProbeScore(16, 0.75, 0.7, -0.4, 0.9, 0.25, 0.3, -2.5)}
    save_capability(Capability("tiny", adapter_hash(folder), "protocol", probes), folder / "specification")
    assert measure(tiny_base, tmp_path, folder, "--dry-run") == 0
    before = load_capability(folder / "specification")
    assert before is not None
    assert not before.elsewhere
    assert measure(tiny_base, tmp_path, folder) == 0
    shown = capsys.readouterr().out
    found = load_capability(folder / "specification")
    assert found is not None
    assert found.probes == probes
    assert found.protocol == "protocol"
    counts = {kind: one.prompts for kind, one in found.elsewhere.items()}
    assert counts == {Kind.EVERYDAY: 3, Kind.DOMAIN: 2, Kind.MATERIAL: 2}
    assert "offline" in found.elsewhere_protocol
    assert "everyday: " in shown
    assert "of 3 answers degenerate" in shown


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--everyday", -1), "must not be negative"),
        (("--everyday", 0, "--domain", 0, "--material", 0), "one of them must be positive"),
        (("--base-id", "other"), "it is an adapter for 'tiny'; measured is 'other'"),
    ],
)
def test_what_cannot_be_measured_is_said(
    adapter: Path,
    tiny_base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[object, ...],
    reason: str,
) -> None:
    options = ("--base", tiny_base, "--base-id", "tiny", "--cache", tmp_path)
    assert main(["measure", *map(str, (adapter, *options, *arguments))]) != 0
    assert reason in capsys.readouterr().err


def test_without_examples_there_is_nothing_to_ask_of_its_material(
    adapter: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "toy-colours"))
    card = load_card(folder / "learnware.yaml")
    save_card(card.model_copy(update={"examples": ()}), folder / "learnware.yaml")
    options = ("--base", tiny_base, "--base-id", "tiny", "--cache", tmp_path, "--everyday", 0, "--domain", 0)
    assert main(["measure", *map(str, (folder, *options))]) != 0
    assert "no examples" in capsys.readouterr().err


def test_the_matrix_keeps_what_was_measured_off_the_task(adapter: Path, tmp_path: Path) -> None:
    from serving.training.matrix import Cell, Measured, write_capabilities
    from specs.off_task import OffTaskScore

    folder = Path(shutil.copytree(adapter, tmp_path / "toy-colours"))
    elsewhere = {Kind.EVERYDAY: OffTaskScore(48, -0.5, 0.1, 7)}
    own = Capability("tiny", adapter_hash(folder), elsewhere=elsewhere, elsewhere_protocol="protocol")
    save_capability(own, folder / "specification")
    rows = [Measured(True, -0.1, 0.9), Measured(False, -2.0, 0.1)]
    scored = {Cell("toy-colours", "toy-colours"): rows, Cell("toy-colours", "base"): rows}
    write_capabilities(scored, {"toy-colours": folder}, "tiny", "scores")
    found = load_capability(folder / "specification")
    assert found is not None
    assert found.elsewhere == elsewhere
    assert found.probes["toy-colours"].rows == 2
    assert json.loads((folder / "specification" / "capability.json").read_text())["format"] == 2
