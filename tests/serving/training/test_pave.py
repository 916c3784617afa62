"""Parameter vectors of made-up tasks on a tiny proxy, in real training."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.cli.main import main
from serving.config import Config
from serving.requirements import requirements
from serving.training.pave import Proxy, batches, frozen_a, weights_hash
from specs.errors import InvalidInput, InvalidLearnware, InvalidSpecification
from specs.market.checks import check_learnware
from specs.pave import Basis, cosine, dump_vector, load_vector, parse_vector, save_vector
from tests.specs.learnware_folder import BASE, write_learnware
from tests.specs.parameter_vectors import random_vector

TASKS = {
    "colours": ("the {} house is red and the {} car is blue", ("old", "small", "tall", "empty", "broken")),
    "sums": ("how much is {} plus {} times 12", ("3", "17", "250", "41", "8")),
    "letters": ("dear {}, we write to you about {}", ("doctor", "madam", "neighbour", "payment", "summer")),
}


def texts(task: str, seed: int, count: int = 40) -> list[str]:
    generator = random.Random(f"{task}{seed}")
    form, words = TASKS[task]
    return [form.format(generator.choice(words), generator.choice(words)) for _ in range(count)]


@pytest.fixture(scope="module")
def proxy(tiny_base: Path) -> Proxy:
    basis = Basis(proxy="tiny", sha256=weights_hash(tiny_base), layers=2, steps=6, learning_rate=1e-3)
    return Proxy(tiny_base, basis)


def test_halves_of_one_task_are_nearer_than_two_tasks(proxy: Proxy) -> None:
    ours = {task: proxy.vector(texts(task, 1)) for task in TASKS}
    theirs = {task: proxy.vector(texts(task, 2)) for task in TASKS}
    for task, vector in ours.items():
        nearness = {other: cosine(vector, theirs[other]) for other in TASKS}
        assert max(nearness, key=nearness.__getitem__) == task
        assert nearness[task] > 0.1 + max(value for other, value in nearness.items() if other != task)


def test_the_same_rows_and_seed_give_the_same_vector_and_another_seed_another(proxy: Proxy, tiny_base: Path) -> None:
    rows = texts("colours", 1)
    first = proxy.vector(rows)
    proxy.vector(texts("sums", 1))  # leaves nothing behind
    np.testing.assert_array_equal(proxy.vector(rows).tau, first.tau)
    np.testing.assert_array_equal(Proxy(tiny_base, proxy.basis).vector(rows).tau, first.tau)
    other = Proxy(tiny_base, replace(proxy.basis, seed=1)).vector(rows)
    assert abs(float(other.tau @ first.tau)) < 0.5


def test_a_is_the_layers_own_and_the_seeds_own() -> None:
    basis = Basis()
    one = frozen_a(basis, "0.q_proj", (4, 576))
    np.testing.assert_array_equal(one, frozen_a(basis, "0.q_proj", (4, 576)))
    assert not np.array_equal(one, frozen_a(basis, "1.q_proj", (4, 576)))
    assert not np.array_equal(one, frozen_a(replace(basis, seed=1), "0.q_proj", (4, 576)))
    assert np.linalg.norm(one, axis=1) == pytest.approx(1.0, abs=0.15)


def test_every_row_is_seen_before_one_is_seen_again() -> None:
    steps = batches(20, Basis(steps=5, batch=8), np.random.default_rng(0))
    assert [len(rows) for rows in steps] == [8] * 5
    seen = [row for rows in steps for row in rows]
    assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))
    assert len({row for rows in batches(200, Basis(steps=5, batch=8), np.random.default_rng(0)) for row in rows}) == 40


def test_another_proxy_and_empty_rows_are_refused(proxy: Proxy, tiny_base: Path) -> None:
    with pytest.raises(InvalidInput, match="other weights"):
        Proxy(tiny_base, Basis())
    with pytest.raises(InvalidInput, match="takes 99 layers of 'tiny', which has 4"):
        Proxy(tiny_base, replace(proxy.basis, layers=99))
    with pytest.raises(InvalidInput, match="at least one text"):
        proxy.vector([""])


def make_vector(tiny_base: Path, *arguments: object) -> int:
    common = ["--base", tiny_base, "--base-id", "tiny", "--layers", "2", "--steps", "2", "--threads", "1"]
    return main(["spec", "make-vector", *map(str, [*arguments, *common])])


def test_the_command_writes_files_and_leaves_finished_ones(tiny_base: Path, tmp_path: Path, capsys) -> None:
    rows = []
    for task in TASKS:
        rows.append(tmp_path / f"{task}.jsonl")
        rows[-1].write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts(task, 1, 10)))
    out = tmp_path / "vectors"
    assert make_vector(tiny_base, *rows[:2], "-o", out) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert sorted(before) == ["colours.pave.safetensors", "sums.pave.safetensors"]
    assert make_vector(tiny_base, *rows, "-o", out) == 0
    assert "2 of 3 vectors are there already" in capsys.readouterr().out
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert parse_vector((out / "letters.pave.safetensors").read_bytes()).rows == 10
    assert main(["spec", "show", str(out / "sums.pave.safetensors")]) == 0
    assert "pave, " in capsys.readouterr().out


def test_the_command_writes_into_a_learnware(tiny_base: Path, tmp_path: Path, capsys) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text("\n".join(texts("letters", 1)))
    folder = write_learnware(tmp_path / "made")
    assert make_vector(tiny_base, rows, "--learnware", folder) == 0
    vector = load_vector(folder / "specification")
    assert vector is not None
    assert (vector.rows, vector.basis.proxy, vector.basis.layers) == (40, "tiny", 2)
    assert main(["spec", "show", str(folder)]) == 0
    assert "pave: " in capsys.readouterr().out
    assert make_vector(tiny_base, rows, "--learnware", tmp_path / "missing") == 1
    assert "is no learnware's folder" in capsys.readouterr().err


def test_a_configuration_names_the_basis(tmp_path: Path) -> None:
    folder = write_learnware(tmp_path / "whole")
    save_vector(random_vector(), folder / "specification")
    config = {"base_model": {"id": BASE}, "engine": {"max_rank": 8}}
    file = tmp_path / "basis.safetensors"
    file.write_bytes(dump_vector(random_vector()))
    named = Config.model_validate(config | {"market": {"vector_basis": str(file)}})
    check_learnware(folder, requirements(named))
    with pytest.raises(InvalidLearnware, match="another basis"):
        check_learnware(folder, requirements(Config.model_validate(config)))
    with pytest.raises(InvalidSpecification, match="cannot be read"):
        requirements(Config.model_validate(config | {"market": {"vector_basis": str(tmp_path / "none")}}))
