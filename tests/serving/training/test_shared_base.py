"""A base model shared by adapters that PEFT would let rewrite it: real ones, made with PEFT on the tiny base."""

import itertools
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import KasaConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from safetensors.torch import load_file, save_file

from serving.training import scoring, shared_base
from serving.training.adapter import load_base, older_names
from serving.training.drift import DriftMeter
from serving.training.rows import encode_prompt, read_rows
from serving.training.scoring import BASE, Scorer
from serving.training.shared_base import SharedBase, check_measurable
from specs.errors import InvalidLearnware
from specs.off_task import Kind

PROMPT = "Is the colour warm or cold? a red house"
BEGINNINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "pissa": lambda: {"init_lora_weights": "pissa"},
    "pissa_niter_4": lambda: {"init_lora_weights": "pissa_niter_4"},
    "olora": lambda: {"init_lora_weights": "olora"},
    "corda": lambda: {"init_lora_weights": "corda", "corda_config": CordaConfig(corda_method="kpm")},
    "orthogonal": lambda: {"init_lora_weights": "orthogonal"},
    "mica": lambda: {"init_lora_weights": "mica"},
}
"""Ways of PEFT to begin an adapter; all but the last two rewrite the base's weights."""


def quiet(*_: object) -> None:
    """Progress that nobody watches."""


def make(base: Path, folder: Path, seed: int = 0, **options: Any) -> Path:
    """Writes an adapter that began as PEFT's options say and was then trained a step, which chance plays here."""
    model, tokenizer = load_base(base, "cpu", torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **options)
    torch.manual_seed(seed)
    with older_names():
        if options.get("init_lora_weights") == "corda":
            ids = torch.tensor([encode_prompt(PROMPT, tokenizer, 64)])
            preprocess_corda(model, config, run_model=lambda: [model(ids) for _ in range(2)])
        adapted = get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data += 0.05 * torch.randn(parameter.shape)
        adapted.save_pretrained(str(folder))
    config_file = folder / "adapter_config.json"
    written = json.loads(config_file.read_text()) | {"base_model_name_or_path": "tiny"}
    config_file.write_text(json.dumps(written))
    return folder


@pytest.fixture(scope="module")
def adapters(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An adapter of every beginning, and a plain one."""
    folder = tmp_path_factory.mktemp("beginnings")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice to who trains
        made = {name: make(tiny_base, folder / name, **options()) for name, options in BEGINNINGS.items()}
    # To begin one as LoftQ does takes bitsandbytes; this is what its configuration looks like.
    made["loftq"] = make(tiny_base, folder / "loftq", seed=2)
    config = made["loftq"] / "adapter_config.json"
    began = {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 1}}
    config.write_text(json.dumps(json.loads(config.read_text()) | began))
    return made | {"plain": make(tiny_base, folder / "plain", seed=1)}


def logits(shared: SharedBase, name: str | None, tokens: list[int]) -> torch.Tensor:
    with shared.using(name), torch.no_grad():
        return shared.model(torch.tensor([tokens])).logits[0].clone()


@pytest.mark.parametrize("name", sorted([*BEGINNINGS, "loftq"]))
def test_an_adapter_changes_neither_the_base_nor_the_next_one(
    adapters: dict[str, Path], tiny_base: Path, name: str
) -> None:
    _, tokenizer = load_base(tiny_base, "cpu", torch.float32)
    tokens = encode_prompt(PROMPT, tokenizer, 64)
    found = []
    for order in ((name, "plain"), ("plain", name), ("plain",), (name,)):
        shared = SharedBase(load_base(tiny_base, "cpu", torch.float32)[0])
        before = logits(shared, None, tokens)
        for one in order:
            shared.attach(one, adapters[one])
        assert torch.equal(logits(shared, None, tokens), before)
        found.append({one: logits(shared, one, tokens) for one in order})
    for one, other in itertools.combinations(found, 2):
        for same in one.keys() & other.keys():
            assert torch.equal(one[same], other[same])
    assert not torch.equal(found[0][name], found[0]["plain"])


@pytest.mark.parametrize("name", sorted([*BEGINNINGS, "loftq"]))
def test_an_adapter_is_measured_on_the_base_as_an_engine_serves_it(
    adapters: dict[str, Path], tiny_base: Path, name: str
) -> None:
    model, tokenizer = load_base(tiny_base, "cpu", torch.float32)
    tokens = encode_prompt(PROMPT, tokenizer, 64)
    shared = SharedBase(load_base(tiny_base, "cpu", torch.float32)[0])
    shared.attach(name, adapters[name])
    weights = load_file(adapters[name] / "adapter_model.safetensors")
    for full, matrix in weights.items():
        if full.endswith("lora_A.weight"):
            module = full.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            model.get_submodule(module).weight.data += 2 * weights[full.replace("lora_A", "lora_B")] @ matrix
    with torch.no_grad():
        served = model(torch.tensor([tokens])).logits[0]
    assert logits(shared, name, tokens) == pytest.approx(served, abs=2e-3)


def test_scores_do_not_depend_on_what_is_scored_beside_or_before(
    adapters: dict[str, Path], colours: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "check_measurable", quiet)  # which would refuse them, so that nobody is to see this
    rows = read_rows(colours / "toy" / "colours.test.jsonl")[:6]
    orders = (("pissa", "olora", "plain"), ("plain", "olora", "pissa"), ("plain",), ())
    scored = []
    for number, order in enumerate(orders):
        scorer = Scorer(tiny_base, "tiny", {name: adapters[name] for name in order}, tmp_path / str(number))
        scored.append({name: scorer.score(rows, name, quiet) for name in (*order, BASE)})
        scorer.check_integrity()
    assert scored[0] == scored[1]
    assert scored[2]["plain"] == scored[0]["plain"]
    assert scored[3][BASE] == scored[2][BASE] == scored[0][BASE]


def test_drift_does_not_depend_on_what_was_measured_before(
    adapters: dict[str, Path], tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.training import drift

    monkeypatch.setattr(drift, "check_measurable", quiet)
    prompts = {Kind.EVERYDAY: [PROMPT, "the blue car"]}
    meter = DriftMeter(tiny_base, tmp_path)
    alone = meter.measure(adapters["plain"], prompts)
    assert meter.measure(adapters["pissa"], prompts) != alone
    assert meter.measure(adapters["plain"], prompts) == alone


def test_names_that_differ_by_a_dot_are_two_adapters(adapters: dict[str, Path], tiny_base: Path) -> None:
    shared = SharedBase(load_base(tiny_base, "cpu", torch.float32)[0])
    shared.attach("toy-a.b", adapters["plain"])
    before = logits(shared, "toy-a.b", [5, 6, 7])
    shared.attach("toy-a_b", adapters["mica"])
    assert torch.equal(logits(shared, "toy-a.b", [5, 6, 7]), before)


def test_an_adapter_that_rewrites_the_base_all_the_same_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = make(tiny_base, tmp_path / "kasa", kasa_config=KasaConfig())
    shared = SharedBase(load_base(tiny_base, "cpu", torch.float32)[0])
    with pytest.raises(InvalidLearnware, match=r"learnware kasa: .*8 of 38 tensors of the base model have changed"):
        shared.attach("kasa", folder)
    shared.detach()
    with pytest.raises(RuntimeError, match="have changed"):  # it stays so, whoever comes next
        shared.check_integrity()


def test_layers_that_peft_would_leave_out_are_refused(
    adapters: dict[str, Path], tiny_base: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapters["plain"], tmp_path / "partly"))
    config = json.loads((folder / "adapter_config.json").read_text()) | {"layers_to_transform": [2, 3]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidLearnware, match="would leave out 8 of 16 tensors"):
        SharedBase(load_base(tiny_base, "cpu")[0]).attach("partly", folder)


def test_a_copy_of_the_base_that_was_saved_beside_the_adapter_counts(
    adapters: dict[str, Path], tiny_base: Path, tmp_path: Path
) -> None:
    base = load_base(tiny_base, "cpu", torch.float32)[0]
    name, matrix = "base_model.model.model.embed_tokens.weight", base.get_input_embeddings().weight.detach().clone()
    folder = Path(shutil.copytree(adapters["plain"], tmp_path / "copy"))
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(weights | {name: matrix}, folder / "adapter_model.safetensors")
    SharedBase(base).attach("equal", folder)
    other = load_base(tiny_base, "cpu", torch.float32)[0]
    save_file(weights | {name: matrix + 0.1}, folder / "adapter_model.safetensors")
    with pytest.raises(InvalidLearnware, match=r"1 of 38 tensors of the base model have changed"):
        SharedBase(other).attach("other", folder)


def test_what_cannot_be_served_cannot_be_scored(adapters: dict[str, Path], tmp_path: Path, tiny_base: Path) -> None:
    folder = Path(shutil.copytree(adapters["plain"], tmp_path / "activated"))
    config = json.loads((folder / "adapter_config.json").read_text()) | {"alora_invocation_tokens": [5, 6]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidLearnware, match=r"learnware toy-activated: .*alora"):
        Scorer(tiny_base, "tiny", {"toy-plain": adapters["plain"], "toy-activated": folder}, tmp_path / "cells")
    with pytest.raises(InvalidLearnware, match=r"learnware activated: .*alora"):
        DriftMeter(tiny_base, tmp_path).measure(folder, {Kind.EVERYDAY: [PROMPT]})
    check_measurable({"toy-plain": adapters["plain"]})


def test_peft_itself_would_change_the_next_one(adapters: dict[str, Path], tiny_base: Path) -> None:
    """Why there is `serving.training.shared_base`: once this fails, PEFT may be left to load adapters by itself."""
    model = load_base(tiny_base, "cpu", torch.float32)[0]
    before = model(torch.tensor([[5, 6, 7]])).logits.detach()
    with older_names():
        adapted = PeftModel.from_pretrained(model, str(adapters["pissa"]), adapter_name="pissa")
    with adapted.disable_adapter(), torch.no_grad():
        assert not torch.allclose(adapted(torch.tensor([[5, 6, 7]])).logits, before, atol=1e-2)
    assert shared_base.WRAPPED
