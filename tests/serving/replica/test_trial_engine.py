"""The trial on a real engine: adapters of the embedded base that are of no use, made for the purpose, and starters.

The adapters change the output layer alone, by one direction of its input: along it they push one token, or another.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from serving.base_model import ensure_base_model
from serving.paths import STARTER_FOLDER, cache_folder
from serving.training.adapter import load_base
from serving.training.rows import encode_prompt
from specs.card import load_card
from specs.prompts import everyday_prompts
from specs.specification import load_specification
from tests.serving.random_adapters import engine_arguments, run_engine

pytestmark = [pytest.mark.engine, pytest.mark.extra, pytest.mark.timeout(600)]

EXAMPLES = [f"Is the mood of this text positive or negative?\n{text}" for text in everyday_prompts()[40:48]]
LABELS = ["positive", "negative"]
GOOD = ("finance-tfns", "finance-xbrl_term", "mathematics-agieval_gaokao_mathqa")


class Pusher:
    """Makes adapters out of the states in which the base's output layer finds it."""

    def __init__(self) -> None:
        self.model, self.tokenizer = load_base(
            ensure_base_model("embedded", cache_folder(), print), "cpu", torch.float32
        )
        prompts = [encode_prompt(prompt, self.tokenizer, 256) for prompt in everyday_prompts()[:120:3]]
        prompts += [encode_prompt(prompt, self.tokenizer, 256) for prompt in EXAMPLES]
        self.label = self.tokenizer("positive").input_ids[0]
        self.before = self.states(prompts)
        self.after = self.states([[*prompt, self.label] for prompt in prompts])

    def states(self, prompts: list[list[int]]) -> torch.Tensor:
        with torch.no_grad():
            found = [self.model.model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in prompts]
        return torch.stack(found)

    def write(self, folder: Path, direction: torch.Tensor, pushed: dict[int, float]) -> dict[str, Any]:
        """Pushes each token by so many nats for each unit of the state along `direction` (hidden,)."""
        head = torch.zeros(self.model.config.vocab_size, 1)
        for token, force in pushed.items():
            head[token] = force
        name = "base_model.model.lm_head"
        folder.mkdir()
        save_file(
            {f"{name}.lora_A.weight": direction[None].contiguous(), f"{name}.lora_B.weight": head},
            folder / "adapter_model.safetensors",
        )
        config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["lm_head"], "bias": "none"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return {"folder": str(folder), "examples": EXAMPLES, "labels": LABELS}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("trials")
    pusher = Pusher()
    states = torch.cat([pusher.before, pusher.after])
    mean = states.mean(0)
    mean = mean / (states @ mean).min()  # 1 or more along it, in whatever state
    assert float((states @ mean).min()) > 0
    signs = torch.cat([torch.ones(len(pusher.before)), -torch.ones(len(pusher.after))])
    turn = torch.linalg.lstsq(
        states.T @ states + 10 * torch.eye(states.shape[1]), (states.T @ signs)[:, None]
    ).solution[:, 0]  # 1 before the label, -1 after it
    end = pusher.tokenizer.eos_token_id
    the = pusher.tokenizer(" the").input_ids[0]
    trials = {
        "circles": pusher.write(folder / "circles", mean, {the: 300.0}),
        "silent": pusher.write(folder / "silent", mean, {end: 300.0}),
        "no numbers": pusher.write(folder / "no numbers", mean * 1e3, {the: 3e38}),
        "constant": pusher.write(folder / "constant", turn, {pusher.label: 150.0, end: -150.0}),
        "faint": pusher.write(folder / "faint", mean, {the: 1e-4}),
    }
    for name in GOOD:
        answers = load_specification(STARTER_FOLDER / name / "specification").answers
        trials[name] = {
            "folder": str(STARTER_FOLDER / name),
            "examples": load_card(STARTER_FOLDER / name / "learnware.yaml").examples,
            "labels": answers.labels if answers else (),
        }
    order = {"engine": engine_arguments(4, max_model_len=1024), "trials": trials}
    return run_engine(Path(__file__).with_name("trial_engine.py"), folder, order)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("circles", "repeats itself without end"),
        ("silent", "gives no answer to any of 8 examples"),
        ("no numbers", "not finite numbers"),
        ("constant", "answers 'positive' whatever it is asked"),
        ("faint", "answers as the base model does"),
    ],
)
def test_what_is_of_no_use_is_refused(results: dict[str, Any], name: str, reason: str) -> None:
    assert reason in str(results[name]["refusal"])


@pytest.mark.parametrize("name", GOOD)
def test_starters_pass(results: dict[str, Any], name: str) -> None:
    assert results[name]["refusal"] is None
