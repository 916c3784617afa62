"""The rules that selection is compared with, on a toy market where the right choice is known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.common.scores import BASE, TaskScores
from benchmarks.market.adapter_rules import read_spectra, scores, spectrum
from benchmarks.market.rule_inputs import RuleInputs, read_inputs, write_halves
from benchmarks.market.rules import Offer, TaskRows, fit_rules, ridge
from router.selection import Selector
from router.settings import SelectionSettings
from specs.encoding.encoder import load_prompt_encoder
from specs.errors import InvalidInput
from specs.learnware import Learnware
from specs.pave import ParameterVector, dump_vector
from specs.specification import make_specification
from tests.specs.parameter_vectors import SMALL, random_vector

ENCODER = load_prompt_encoder()
TEXTS = {
    "sums": [f"How much is {n} plus {n * 7 % 31}?" for n in range(40)],
    "colours": [
        f"Which colour has the {thing} number {n}?" for n in range(10) for thing in ("car", "hat", "door", "ship")
    ],
    "letters": [f"Dear {name}, please answer my letter {n}." for n in range(10) for name in ("Ann", "Bo", "Cy", "Di")],
}
TASKS = {f"toy-{name}": name for name in TEXTS}
GOOD = "toy-good_colours"
"""A second learnware for colours, which alone answers them right."""


def near(vector: ParameterVector, seed: int) -> ParameterVector:
    noise = random_vector(1000 + seed)
    return replace(vector, parts={name: part + 0.3 * noise.parts[name] for name, part in vector.parts.items()})


def write_adapter(folder: Path, direction: np.ndarray) -> None:
    """Rank 2; what it answers to lies along `direction`, ten times more than along another one."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    a = np.stack([direction, np.roll(direction, 1)]).astype(np.float32)
    b = np.zeros((6, 2), np.float32)
    b[0, 0], b[1, 1] = 10, 1
    layer = "base_model.model.model.layers.1.self_attn.q_proj"
    save_file({f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}, folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def offer(tmp_path_factory: pytest.TempPathFactory) -> Offer:
    root = tmp_path_factory.mktemp("learnwares")
    learnwares, vectors = [], {task: random_vector(seed) for seed, task in enumerate(TASKS)}
    for number, (task, name) in enumerate([*TASKS.items(), (GOOD, "colours")]):
        write_adapter(root / task, np.eye(8)[2 * number])
        specification = make_specification({"whole": TEXTS[name][:20]}, ENCODER, 10)
        learnwares.append(
            Learnware(task, 1, task, "", "toy", (name,), "base", ("en",), "", 2, root / task, specification)
        )
    probes, probe_vectors = {}, {}
    for task, name in TASKS.items():
        among = {one.id: np.full(8, 0.8 if one.id == task else 0.3) for one in learnwares} | {BASE: np.full(8, 0.4)}
        if name == "colours":
            among[task], among[GOOD] = np.full(8, 0.3), np.full(8, 0.9)
        probes[task] = TaskScores(list(range(8)), {id_: one > 0.5 for id_, one in among.items()}, among, among)
        probe_vectors[task] = ENCODER.encode(TEXTS[name][20:28])
    states = {task: {"q_proj": np.tile(np.eye(8)[2 * number], (3, 2, 2, 1))} for number, task in enumerate(TASKS)}
    inputs = RuleInputs(
        vectors,
        {task: near(vector, seed) for seed, (task, vector) in enumerate(vectors.items())},
        {task: TEXTS[name][:20] for task, name in TASKS.items()},
        {task: {name: rows.astype(np.float16) for name, rows in one.items()} for task, one in states.items()},
    )
    selector = Selector(learnwares, ENCODER, SelectionSettings())
    return Offer(learnwares, probes, selector, probe_vectors, ENCODER, inputs)


def rows(task: str) -> TaskRows:
    return TaskRows(task, ENCODER.encode(TEXTS[TASKS[task]][28:]))


@pytest.mark.slow
def test_every_task_rule_finds_a_learnware_of_the_task(offer: Offer) -> None:
    rules = fit_rules(offer).task
    assert len(rules) == 8
    for name, choose in rules.items():
        for task in TASKS:
            if "local γ" in name:  # so narrow a kernel sees its own points only, and takes the most scattered set
                assert choose(rows(task)) in {one.id for one in offer.learnwares}
            else:
                assert choose(rows(task)) in ({task, GOOD} if task == "toy-colours" else {task}), name


def test_every_request_rule_finds_it_for_each_row(offer: Offer) -> None:
    rules = fit_rules(offer).request
    assert sorted(rules) == ["amortised PAVE, per request", "learned scores, per request"]
    for task in TASKS:
        similar = rules["amortised PAVE, per request"](rows(task).vectors)
        assert np.mean([one in {task, GOOD} if task == "toy-colours" else one == task for one in similar]) > 0.9
        best = GOOD if task == "toy-colours" else task  # what answers right, not what merely looks alike
        assert np.mean([one == best for one in rules["learned scores, per request"](rows(task).vectors)]) > 0.9


def test_what_has_not_been_made_is_left_out(offer: Offer) -> None:
    without = fit_rules(replace(offer, inputs=None, probe_vectors={}))
    assert (len(without.task), without.request) == (5, {})
    assert offer.inputs is not None
    some = offer.inputs._replace(user={}, states={})
    assert {"PAVE, sigmoid(10 cos)", "Arrow", "SpectR"}.isdisjoint(fit_rules(replace(offer, inputs=some)).task)


def test_a_learnware_of_two_tasks_lies_between_them(offer: Offer) -> None:
    both = replace(offer.learnwares[0], id="toy-both", tasks=("sums", "letters"))
    vector = replace(offer, learnwares=[both]).vectors[0]
    assert vector is not None
    assert offer.inputs is not None
    made = offer.inputs.provider
    assert vector.tau @ made["toy-sums"].tau == pytest.approx(vector.tau @ made["toy-letters"].tau, abs=1e-5)
    assert vector.tau @ made["toy-sums"].tau > 0.5
    unknown = replace(offer.learnwares[0], tasks=("sums", "never_seen"))
    assert replace(offer, learnwares=[unknown]).vectors == [None]
    own = replace(both, vector=random_vector(9))
    assert replace(offer, learnwares=[own]).vectors == [own.vector]


def test_a_spectrum_is_that_of_the_product() -> None:
    generator = np.random.default_rng(0)
    b, a = generator.normal(size=(7, 3)).astype(np.float32), generator.normal(size=(3, 5)).astype(np.float32)
    rows = spectrum(b, a)
    _, values, vectors = np.linalg.svd(b @ a)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), values[:3], rtol=1e-4)
    assert abs(rows[0] @ vectors[0]) == pytest.approx(values[0], rel=1e-4)
    h = generator.normal(size=5).astype(np.float32)
    assert np.linalg.norm(rows @ h) == pytest.approx(np.linalg.norm(b @ a @ h), rel=1e-4)


def test_arrow_sees_one_direction_and_spectr_all(tmp_path: Path) -> None:
    write_adapter(tmp_path / "one", np.eye(8)[0])
    spectra = read_spectra(tmp_path / "one")
    assert list(spectra) == [(1, "q_proj")]
    states = {"q_proj": np.tile(np.eye(8)[1], (1, 1, 2, 1)).astype(np.float16)}
    arrow, spectr = scores([spectra], states)
    assert arrow[0] == pytest.approx(0.0, abs=1e-3)
    assert spectr[0] == pytest.approx(2.0, rel=1e-3)  # the second singular value, alpha / r = 2 times 1


def test_ridge_finds_a_linear_map_and_does_not_believe_noise() -> None:
    generator = np.random.default_rng(0)
    x, weights = generator.normal(size=(200, 6)).astype(np.float32), generator.normal(size=(6, 2))
    exact = ridge(x, x @ weights + 3)(x)
    assert np.abs(exact - (x @ weights + 3)).max() < 0.3
    noise = generator.normal(size=(200, 1))
    wide = generator.normal(size=(200, 150)).astype(np.float32)
    assert float(ridge(wide, noise)(wide).std()) < 0.6 * float(noise.std())


def test_halves_share_no_row_and_what_was_made_is_read(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    lines = [json.dumps({"prompt": f"row {n}"}) for n in range(500)]
    (tmp_path / "toy" / "sums.train.jsonl").write_text("\n".join(lines))
    files = write_halves(tmp_path, ["toy-sums"], tmp_path / "out" / "rows")
    provider, user = (path.read_text().splitlines() for path in files)
    assert len(provider) == len(user) == 200
    assert not set(provider) & set(user)
    (tmp_path / "out" / "vectors").mkdir()
    vector = random_vector(0, SMALL)
    (tmp_path / "out" / "vectors" / "toy-sums.user.pave.safetensors").write_bytes(dump_vector(vector))
    inputs = read_inputs(tmp_path / "out")
    assert list(inputs.user) == ["toy-sums"]
    assert not inputs.provider
    assert inputs.texts["toy-sums"][1] == "row 2"
    with pytest.raises(InvalidInput, match=r"missing\.train\.jsonl"):
        write_halves(tmp_path, ["toy-missing"], tmp_path / "rows")
