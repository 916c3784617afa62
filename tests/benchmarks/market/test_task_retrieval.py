"""Which half of a task is found by which rule, on halves where it is known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.market.task_retrieval import main, measure, read_halves, retrieve
from specs.encoding.encoder import load_prompt_encoder
from specs.errors import InvalidInput
from specs.pave import ParameterVector, dump_vector
from tests.specs.parameter_vectors import random_vector

FORMS = {
    "toy-sums": "How much is {} plus {}?",
    "toy-colours": "Which colour has car {} in garage {}?",
    "other-letters": "Dear Ann, letter {} of {} is late.",
}


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Three tasks; the vectors of the third one's user lie at the first one's provider."""
    for folder in ("rows", "vectors"):
        (tmp_path / folder).mkdir()
    for seed, (task, form) in enumerate(FORMS.items()):
        for half, shift in (("provider", 0), ("user", 40)):
            texts = [json.dumps({"prompt": form.format(shift + n, n * 7 % 11)}) for n in range(30)]
            (tmp_path / "rows" / f"{task}.{half}.jsonl").write_text("\n".join(texts))
            vector = near(random_vector(0 if (task, half) == ("other-letters", "user") else seed), half)
            (tmp_path / "vectors" / f"{task}.{half}.pave.safetensors").write_bytes(dump_vector(vector))
    return tmp_path


def near(vector: ParameterVector, half: str) -> ParameterVector:
    noise = random_vector(50 if half == "user" else 51)
    return replace(vector, parts={name: part + 0.2 * noise.parts[name] for name, part in vector.parts.items()})


@pytest.mark.slow
def test_each_rule_finds_what_its_specifications_say(inputs: Path) -> None:
    found = {name: one for name, (one, _) in measure(read_halves(inputs), load_prompt_encoder()).items()}
    assert sum(name.startswith("PAVE") for name in found) == 2
    assert len(found) > 3
    for name, one in found.items():
        if name.startswith("PAVE"):
            assert one.wrong == {"other-letters": "toy-sums"}
            assert (one.task, one.domain) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
        else:
            assert (one.task, one.domain, one.wrong) == (1.0, 1.0, {})
            assert one.margin > 0


def test_a_wrong_task_of_the_right_domain_is_told_apart() -> None:
    scores = np.array([[0.2, 0.9, 0.1], [0.1, 0.9, 0.2], [0.0, 0.1, 0.5]])
    one = retrieve(["a-x", "a-y", "b-z"], scores)
    assert (one.task, one.domain, one.wrong) == (pytest.approx(2 / 3), 1.0, {"a-x": "a-y"})
    assert one.margin == pytest.approx((-0.7 + 0.7 + 0.4) / 3 / scores.std())


@pytest.mark.slow
def test_the_command_reports_and_refuses_a_folder_without_halves(inputs: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "result.json"
    assert main(["--inputs", str(inputs), "--json", str(file)]) == 0
    assert "3 tasks, two halves" in capsys.readouterr().out
    figures = json.loads(file.read_text())["figures"]
    assert figures["task_cosine of means"] == 1.0
    assert figures["cosine_same_task"] > figures["cosine_other_task"]
    with pytest.raises(InvalidInput, match="0 tasks"):
        read_halves(tmp_path / "empty")
    assert main(["--inputs", str(tmp_path / "empty")]) == 1
