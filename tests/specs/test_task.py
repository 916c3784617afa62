"""Task specifications: made from rows, written, read again, kept."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from specs import task
from specs.encoding.encoder import PROMPT_ENCODER, STATIC_ENCODER, load_encoder, load_prompt_encoder
from specs.errors import InvalidInput, InvalidSpecification, StoreFull, TooLarge
from specs.market.store import Market
from specs.task import (
    TaskSpecification,
    dump_task_specification,
    largest_auc,
    load_task_specification,
    make_task_specification,
    read_rows,
    task_id,
)
from specs.task_store import TaskStore

ROWS = [f"How many apples are left when {number} of {number * 3} are eaten?" for number in range(40)]
encoder = load_prompt_encoder()


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def made() -> TaskSpecification:
    return make_task_specification(ROWS, encoder, generator=seeded())


def test_without_noise_it_is_the_mean_of_the_rows() -> None:
    bare = make_task_specification(ROWS, encoder, mu=None)
    assert bare.mean == pytest.approx(encoder.encode(ROWS).mean(0), abs=1e-6)
    assert (bare.noise, bare.mu, bare.rows) == (0.0, math.inf, 40)


def test_the_noise_has_the_size_that_its_privacy_asks_for() -> None:
    """σ = 2/(nμ): what one row can move at most, over μ."""
    exact = make_task_specification(ROWS, encoder, mu=None).mean
    drawn = [make_task_specification(ROWS, encoder, 0.5, seeded(seed)).mean - exact for seed in range(20)]
    assert np.std(drawn) == pytest.approx(2 / (40 * 0.5), rel=0.03)
    assert abs(np.mean(drawn)) < 0.01
    assert make_task_specification(ROWS, encoder, 0.5).mu == pytest.approx(0.5)


def test_how_many_rows_would_be_enough_is_told_by_the_privacy() -> None:
    few = make_task_specification(ROWS, encoder, 0.5)
    assert few.blurred
    assert few.clear_rows == 200
    enough = make_task_specification(5 * ROWS, encoder, 0.5)
    assert (enough.clear_rows, enough.blurred) == (200, False)
    assert not make_task_specification(ROWS, encoder, mu=None).blurred


def test_no_row_moves_the_mean_by_more_than_the_noise_is_made_for() -> None:
    """Also with an encoder whose vectors are longer than it says."""

    class Long:
        id, dim, fingerprint = "long", 8, "0" * 64

        def encode(self, texts):
            return np.array([[1000.0 if text.startswith("x") else -1.0] + 7 * [0.0] for text in texts], np.float32)

    one, other = ([text] + 39 * ["y"] for text in ("x", "y"))
    means = [make_task_specification(rows, Long(), mu=None).mean for rows in (one, other)]
    assert np.linalg.norm(means[0] - means[1]) <= task.sensitivity(40) + 1e-6


def test_by_default_the_noise_is_new_each_time() -> None:
    first, second = (make_task_specification(ROWS, encoder).mean for _ in range(2))
    assert np.linalg.norm(first - second) > 0.1


def test_the_largest_auc_is_that_of_the_two_normal_distributions() -> None:
    members, others = seeded(1).normal(1, 1, 4000), seeded(2).normal(0, 1, 4000)
    assert largest_auc(1.0) == pytest.approx(np.mean(members[:, None] > others), abs=0.015)
    assert (largest_auc(0.0), largest_auc(math.inf)) == (0.5, 1.0)


def test_it_reads_back_as_it_was_written_and_keeps_its_id(made: TaskSpecification) -> None:
    content = dump_task_specification(made)
    read = load_task_specification(content)
    assert (read.mean == made.mean).all()
    assert (read.rows, read.noise, read.encoder_id) == (40, made.noise, PROMPT_ENCODER)
    assert dump_task_specification(read) == content
    assert task_id(read) == task_id(made)
    assert task.TASK_ID.fullmatch(task_id(made))
    assert task_id(make_task_specification(ROWS, encoder, generator=seeded(1))) != task_id(made)


def test_the_file_holds_no_text_and_is_small(made: TaskSpecification) -> None:
    content = dump_task_specification(made)
    assert len(content) < 4096
    assert b"apple" not in content


def test_objects_and_texts_make_the_same(made: TaskSpecification) -> None:
    objects = [{"prompt": row, "answer": "never looked at"} for row in ROWS]
    assert (make_task_specification(objects, encoder, generator=seeded()).mean == made.mean).all()


def test_progress_counts_every_row() -> None:
    counts: list[int] = []
    make_task_specification(20 * ROWS, encoder, progress=counts.append)
    assert len(counts) > 1
    assert sum(counts) == 20 * len(ROWS)


@pytest.mark.parametrize(
    ("rows", "mu", "reason"),
    [
        (ROWS[:5], 1.0, "needs 20 to"),
        ([*ROWS, {"text": "a"}], 1.0, "row 41: a row is a text, or an object"),
        ([*ROWS[:3], " ", *ROWS], 1.0, "row 4:"),
        (ROWS, 0.0, "mu must be a positive number"),
        (ROWS, math.nan, "mu must be a positive number"),
    ],
)
def test_what_makes_no_specification_is_refused(rows: list, mu: float, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        make_task_specification(rows, encoder, mu)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("rows.jsonl", '{"prompt": "a", "answer": 1}\n\n"b"\n', ["a", "b"]),
        ("rows.txt", 'first\r\n\n{"prompt": 1}\n', ["first", '{"prompt": 1}']),
    ],
)
def test_rows_are_json_lines_or_lines(tmp_path: Path, name: str, content: str, texts: list[str]) -> None:
    (tmp_path / name).write_text(content)
    assert read_rows(tmp_path / name) == texts


def test_a_conversation_is_one_row_as_the_router_reads_its_first_turn(tmp_path: Path) -> None:
    job, persona = "You are a translator. Translate every message into Dutch.", "You are a helpful assistant."
    turns = [{"role": "user", "content": "Good day"}, {"role": "assistant", "content": "x"}] * 2
    rows = [{"messages": [{"role": "system", "content": system}, *turns]} for system in (job, persona)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert read_rows(tmp_path / "rows.json") == [f"{job}\nGood day", "Good day"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"prompt": "a"}\n{', "rows.jsonl, line 2 is not JSON"),
        (b'"a"\n\n{"text": "b"}', "rows.jsonl, line 3: a row needs a `prompt`"),
        (b'{"prompt": ""}', "line 1"),
        (b"[1]", "row 1"),
        (b"\xff", "cannot be read"),
        (b"[" * 100_000, "begins as a JSON array, but is none"),
        (b'{"a":' * 100_000, "line 1 is not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(InvalidInput, match=reason):
        read_rows(tmp_path / "rows.jsonl")


def changed(made: TaskSpecification, mean: object = None, **fields: object) -> bytes:
    header = {
        "type": "task-mean",
        "format": 1,
        "encoder": {"id": made.encoder_id, "sha256": made.encoder_fingerprint},
        "dim": len(made.mean),
        "rows": made.rows,
        "noise": made.noise,
    }
    tensor = made.mean if mean is None else mean
    return save({"mean": tensor}, metadata={"specification": json.dumps(header | fields)})


BAD_MEAN = np.full(920, np.nan, np.float32)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"type": "rkme-text"}, "this version reads 'task-mean', format 1"),
        ({"format": 2}, "this version reads"),
        ({"encoder": {"id": "other", "sha256": ""}}, "made with encoder 'other'; tasks are chosen for with"),
        ({"encoder": {"id": PROMPT_ENCODER, "sha256": "0"}}, "other data of encoder"),
        ({"encoder": None}, "encoder must be an object"),
        ({"dim": 3}, "mean has shape"),
        ({"mean": np.zeros(3, np.float32)}, "mean has shape"),
        ({"mean": np.zeros(920, np.float64)}, "mean has shape"),
        ({"mean": BAD_MEAN}, "finite numbers"),
        ({"mean": np.full(920, 1e30, np.float32)}, "finite numbers"),
        ({"rows": 3}, "rows must be a whole number"),
        ({"rows": True}, "rows must be a whole number"),
        ({"noise": -1.0}, "noise must be a number"),
        ({"noise": "0"}, "noise must be a number"),
    ],
)
def test_a_wrong_value_is_named(made: TaskSpecification, fields: dict, reason: str) -> None:
    assert load_task_specification(changed(made)).rows == 40
    with pytest.raises(InvalidSpecification, match=reason):
        load_task_specification(changed(made, **fields))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no specification at all",
        b"\xff" * 100,
        save({"mean": BAD_MEAN}),
        save({"mean": BAD_MEAN}, metadata={"specification": "[" * 50_000}),
        save({"mean": BAD_MEAN}, metadata={"specification": "3"}),
        save({"mean": BAD_MEAN, "rows": BAD_MEAN}, metadata={"specification": "{}"}),
        b"\x80\x04\x95cos\nsystem\n",
    ],
)
def test_what_is_no_specification_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidSpecification):
        load_task_specification(content)


def test_a_task_of_the_material_alone_is_refused_with_what_to_do() -> None:
    """As the versions before asks were told apart from their material made them: no router could choose by it."""
    old = make_task_specification(ROWS, load_encoder(STATIC_ENCODER))
    with pytest.raises(InvalidSpecification, match="make it anew from the rows"):
        load_task_specification(dump_task_specification(old))


def test_a_cut_or_large_file_is_refused(made: TaskSpecification) -> None:
    content = dump_task_specification(made)
    for length in range(0, len(content), 97):
        with pytest.raises(InvalidSpecification):
            load_task_specification(content[:length])
    with pytest.raises(TooLarge, match="at most 64 KiB"):
        load_task_specification(content + bytes(task.MAX_BYTES))


def test_every_store_of_a_market_sees_what_one_of_them_keeps(tmp_path: Path, made: TaskSpecification) -> None:
    one, other = TaskStore(tmp_path), TaskStore(tmp_path)
    assert other.find(task_id(made)) is None
    name = one.put(made)
    assert name == one.put(made) == task_id(made)
    found = other.find(name)
    assert found is not None
    assert (found.mean == made.mean).all()
    assert other.find(name) is found
    assert one.remove(name)
    assert not one.remove(name)
    assert other.find(name) is None
    assert list((tmp_path / "tasks").iterdir()) == []


@pytest.mark.parametrize("name", ["task:../../secret", "task:", "task:" + 33 * "a", 32 * "a", "task:" + 32 * "A"])
def test_what_is_no_id_is_no_path(tmp_path: Path, name: str) -> None:
    store = TaskStore(tmp_path)
    assert store.find(name) is None
    assert not store.remove(name)


def test_a_full_store_says_so_and_still_takes_what_it_has(tmp_path: Path, made: TaskSpecification) -> None:
    store = TaskStore(tmp_path, max_tasks=1)
    store.put(made)
    store.put(made)
    other = make_task_specification(ROWS, encoder)
    with pytest.raises(StoreFull, match="1 task specifications"):
        store.put(other)
    store.remove(task_id(made))
    assert store.put(other) == task_id(other)


def test_a_damaged_file_is_an_error_and_not_a_task(tmp_path: Path, made: TaskSpecification) -> None:
    name = TaskStore(tmp_path).put(made)
    (path,) = (tmp_path / "tasks").iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InvalidSpecification):
        TaskStore(tmp_path).find(name)


def test_a_market_with_tasks_is_whole(tmp_path: Path, made: TaskSpecification) -> None:
    market = Market(tmp_path)
    name = TaskStore(market.root).put(made)
    assert market.check_integrity() == []
    assert Market(tmp_path).collect_garbage() == []
    assert TaskStore(tmp_path).find(name) is not None
