"""A card is made from options, from the adapter's README, and from answers."""

import argparse
from pathlib import Path

import pytest

from serving.cli.card_options import add_card_arguments, ask_on_terminal, id_from, make_card, read_readme, task_from
from specs.card import BaseModelReference, Card

PEFT_README = """---
base_model: some/base
library_name: peft
---

# Model Card for Model ID

<!-- Provide a quick summary of what the model is/does. -->



## Model Details

### Model Description

<!-- Provide a longer summary of what this model is. -->



- **Developed by:** [More Information Needed]
- **License:** [More Information Needed]

## Uses

<!-- Address questions around how the model is intended to be used. -->

Users (both direct and downstream) should be made aware of the risks, biases and limitations of the model.
"""


def made(folder: Path, *options: str, source: str = "source", ask=lambda _, default: default) -> Card:
    parser = argparse.ArgumentParser()
    add_card_arguments(parser)
    return make_card(parser.parse_args(options), source, folder, BaseModelReference(id="base"), ask)


def test_what_nobody_says_has_a_default(tmp_path: Path) -> None:
    card = made(tmp_path, source="anna/finance_mood")
    assert (card.id, card.author, card.version) in {
        ("anna/finance_mood", "anna", 1),
        ("anna-finance_mood", "anna", 1),
    }
    assert (card.domain, card.licence, card.languages, card.examples) == ("general", "unknown", ("und",), ())
    assert card.description == f"A LoRA adapter of base for {card.tasks[0]} (general)."


def test_what_no_option_says_is_asked_for_and_only_that(tmp_path: Path) -> None:
    asked: dict[str, str] = {}

    def ask(field: str, default: str) -> str:
        asked[field] = default
        return {"domain": "law", "task": "clauses, parties"}.get(field, default)

    card = made(tmp_path, "--id", "law-clauses", "--name", "Clauses", ask=ask)
    assert asked == {"domain": "general", "task": "clauses"}
    assert (card.domain, card.tasks) == ("law", ("clauses", "parties"))


def ended(_: str) -> str:
    raise EOFError


def test_without_a_terminal_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked"))
    assert ask_on_terminal("domain", "general") == "general"
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: " law ")
    assert ask_on_terminal("domain", "general") == "law"
    monkeypatch.setattr("builtins.input", ended)
    assert ask_on_terminal("domain", "general") == "general"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("My adapter (v2)", "My-adapter-v2"),
        ("..", "learnware"),
        ("_out", "out"),
        ("x" * 200, "x" * 96),
        ("größe", "gr-e"),
    ],
)
def test_an_id_is_made_of_any_name(name: str, expected: str) -> None:
    assert id_from(name) == expected


def test_a_task_is_what_stands_behind_owner_and_domain() -> None:
    assert task_from("anna/finance-Mood", "finance") == "mood"
    assert task_from("finance", "finance") == "finance"


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        (PEFT_README, ""),
        (
            "# Mood\n\n![badge](http://x)\n\nTells the **mood** of\n[news](http://y).\n\nMore.",
            "Tells the mood of news.",
        ),
        (
            "# Mood\n## Usage\n\nCall it with a text.\n\n## Model description\n\nTells the mood of news.",
            "Tells the mood of news.",
        ),
        ("# Mood\n\n<!-- A comment\n\nof several words in a paragraph -->\n", ""),
        ("# Mood\n\nWhat it is for: [More Information Needed] by its author.\n", ""),
        ("```python\nimport x\n```\n| a | b |\n\n- one thing in a list\n", ""),
        ("word " * 200, "word " * 79 + "word…"),
    ],
)
def test_a_description_is_the_first_prose_that_describes(tmp_path: Path, text: str, prose: str) -> None:
    (tmp_path / "README.md").write_text(text)
    assert read_readme(tmp_path / "README.md")[1] == prose


@pytest.mark.parametrize("front", ["license: [mit", "- a\n- b", "license: {a: 1}", "license: !!python/name:os.system"])
def test_a_readme_that_says_nothing_usable_is_no_obstacle(tmp_path: Path, front: str) -> None:
    (tmp_path / "README.md").write_bytes(f"---\n{front}\n---\n\xff".encode("latin-1"))
    assert made(tmp_path).licence == "unknown"
