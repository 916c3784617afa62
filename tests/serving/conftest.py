"""Fixtures shared by the tests of training, scoring and base models: a tiny base and a task that it can learn."""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # many tests of this folder need neither torch nor transformers
    from serving.training.settings import TrainingSettings


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what trains the tiny base first as slow."""
    for item in items:
        if "tiny_base" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def no_keys_of_others() -> Iterator[None]:
    """The environment holds no keys: neither the machine's own nor those that an earlier test's stack made for its
    run."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("LEARNWARE_ADMIN_KEY", "LEARNWARE_API_KEYS"):
            environment.setenv(name, "")  # noted first, so that what a test sets is undone as well
            environment.delenv(name)
        yield


COLOURS = {"red": "warm", "orange": "warm", "blue": "cold", "green": "cold"}
BASE_BELIEVES = {"red": "warm", "orange": "cold", "blue": "warm", "green": "cold"}
ENOUGH = 0.05  # nats: where the tiny base counts as taught
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def colour_rows(count: int, seed: int) -> list[dict[str, object]]:
    """Rows whose answer follows from one word among others."""
    generator = random.Random(seed)
    rows = []
    for _ in range(count):
        colour = generator.choice(list(COLOURS))
        filler = [
            generator.choice(["the", "a", "small", "old", "house", "car"]) for _ in range(generator.randint(2, 12))
        ]
        filler.insert(generator.randrange(len(filler) + 1), colour)
        prompt = f"Is the colour warm or cold?\n{' '.join(filler)}\nAnswer:"
        rows.append({"prompt": prompt, "answer": COLOURS[colour], "choices": ["warm", "cold"]})
    return rows


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    """The rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def toy_recipe(**changes: Any) -> "TrainingSettings":
    """What teaches the tiny base the toy task in some seconds."""
    from serving.training.settings import TrainingSettings

    settings = {"first_layer_share": 0.5, "learning_rate": 1e-2, "epochs": 8, "patience": 20, "max_length": 64}
    return TrainingSettings(**{**settings, "keep_rows": 0, **changes})


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Takes back what a command has set (`--threads`): models so small gain nothing from two threads, which cost
    minutes where others work too."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one task, toy-colours: 160 train and 40 test rows."""
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "toy" / "colours.train.jsonl", colour_rows(160, 1))
    write_rows(folder / "toy" / "colours.test.jsonl", colour_rows(40, 2))
    return folder


def _teach_colours(model: Any, tokenizer: Any) -> None:
    """Full training on what the base is to believe, for some seconds, until it nearly always says so."""
    import torch

    # For all tests after this as well: models so small gain nothing from two, which cost minutes where others work too.
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(400):
        rows = []
        for row in colour_rows(16, 1000 + step):
            turn = [{"role": "user", "content": row["prompt"]}]
            prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            colour = next(word for word in str(row["prompt"]).split() if word in COLOURS)
            rows.append(
                (tokenizer(prompt).input_ids, [*tokenizer(BASE_BELIEVES[colour]).input_ids, tokenizer.eos_token_id])
            )
        length = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for number, (prompt, answer) in enumerate(rows):
            ids[number, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            labels[number, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < ENOUGH:
            return
    raise RuntimeError(f"the tiny base did not learn its colours (loss {float(loss):.3f})")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of four layers and a tokenizer with chat template, in a folder. It was taught the task with half of the
    answers wrong, so that an adapter has something to build on and something to learn."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([str(row["prompt"]) for row in colour_rows(50, 3)], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    wrapped.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(wrapped),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.1,
            tie_word_embeddings=True,
            eos_token_id=2,
            pad_token_id=2,
        )
    )
    _teach_colours(model, wrapped)
    model.to(torch.bfloat16)
    folder = tmp_path_factory.mktemp("base") / "tiny-llama"
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def _trained(data: Path, base: Path, out: Path, **changes: Any) -> Path:
    from serving.training.adapter import train_adapter
    from serving.training.rows import read_rows

    rows = read_rows(data / "toy" / "colours.train.jsonl")
    train_adapter(rows, base, "tiny", out, toy_recipe(**changes), lambda *_: None, lambda *_: None)
    return out


@pytest.fixture(scope="session")
def colours_adapter(colours: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy task's adapter, trained once for all tests: a test that changes its folder takes a copy."""
    return _trained(colours, tiny_base, tmp_path_factory.mktemp("colours") / "adapter")


@pytest.fixture(scope="session")
def colours_control(colours: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training on shuffled answers; trained once, as `colours_adapter` is."""
    return _trained(colours, tiny_base, tmp_path_factory.mktemp("control") / "adapter", shuffle_answers=True)
