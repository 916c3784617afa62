"""p(task | request): which task is asked for, the base model's home among them."""

import numpy as np
import pytest

from router import task_model
from router.index.index import Closeness, SpecificationIndex
from router.task_model import Probabilities, TaskModel, class_of, fit
from specs.encoding.ask_encoder import ASK_DIM
from specs.encoding.encoder import load_prompt_encoder
from specs.home import EVERYDAY, OTHER_ASKS, load_home
from specs.learnware import Learnware
from specs.prompts import other_asks
from specs.rkme import ReducedSet
from tests.router.made_learnwares import TASKS, ask, learnware, material, request, specification_of

ENCODER = load_prompt_encoder()
NOTHING_NEAR = Closeness(np.zeros(0, np.int64), np.zeros(0))


@pytest.fixture(scope="module")
def learnwares() -> list[Learnware]:
    return [learnware(task, specification_of(task), (task,)) for task in TASKS]


@pytest.fixture(scope="module")
def model(learnwares: list[Learnware]) -> TaskModel:
    return TaskModel(learnwares, load_home())


def embed(text: str) -> np.ndarray:
    return ENCODER.encode([text])[0]


def of(model: TaskModel, text: str, nearest: Closeness = NOTHING_NEAR) -> Probabilities:
    return model.probabilities(embed(text), nearest)


def nearest_to(learnwares: list[Learnware], text: str) -> Closeness:
    """By plain squared distance, as an index without a fitted metric tells it."""
    sets = [(one.specification.whole_set.points, one.specification.whole_set.weights) for one in learnwares]
    return SpecificationIndex(sets, gamma=50.0).search(embed(text), 5)


@pytest.mark.slow
def test_each_request_is_most_probably_of_its_task(model: TaskModel) -> None:
    assert model.classes == tuple(f"d-{task}" for task in TASKS)
    for number, task in enumerate(TASKS):
        found = of(model, request(task))
        assert int(found.tasks.argmax()) == number
        assert found.tasks[number] > 0.8
        reworded = of(model, f"{material(task, 102)}\n{ask(task, reworded=True)}")
        assert int(reworded.tasks.argmax()) == number
        assert reworded.tasks[number] > reworded.home.sum()


@pytest.mark.slow
@pytest.mark.parametrize("text", [request("spam"), "hi", "", "\ud800", "Write a poem about autumn.", "7" * 5000])
@pytest.mark.parametrize("variance", [0.0, 1e-3, 10.0])
def test_probabilities_sum_to_one(model: TaskModel, text: str, variance: float) -> None:
    found = model.probabilities(embed(text), NOTHING_NEAR, variance)
    assert found.tasks.sum() + found.home.sum() == pytest.approx(1)
    assert min(found.tasks.min(), found.home.min()) >= 0
    assert (len(found.tasks), len(found.home)) == (len(model.classes), len(model.home))


def test_another_ask_on_a_learnwares_own_material_is_at_home_with_the_base_model(model: TaskModel) -> None:
    """Asks that are none of the project's own words for them."""
    for task in TASKS:
        for other in ("Now put that into Italian, please.", "Shorten the text to ten words.", "Turn this into a song."):
            assert other not in other_asks()
            for text in (f"{other}\n{material(task, 103)}", f"{material(task, 103)}\n{other}"):
                assert of(model, text).home.sum() > 0.5, text


def test_everyday_prompts_are_at_home(model: TaskModel) -> None:
    for text in ("Tell me a joke about cats", "How do I sort a list in Python?", "What is the capital of Peru?"):
        found = of(model, text)
        assert found.home.sum() > 0.8
        assert model.home[int(found.home.argmax())] != OTHER_ASKS


def test_the_home_names_its_parts(model: TaskModel) -> None:
    assert set(model.home) == {*load_home().sets, OTHER_ASKS}
    assert EVERYDAY in model.home


def test_learnwares_of_one_task_are_one_class(learnwares: list[Learnware]) -> None:
    twin = learnware("twin", learnwares[0].specification, (TASKS[0],))
    both = learnware("both", learnwares[1].specification, (TASKS[2], TASKS[1]))
    model = TaskModel([*learnwares[:2], twin, both], load_home())
    assert model.classes == ("d-colour", "d-spam", "d-spam+d-species")
    assert model.class_of_learnware.tolist() == [0, 1, 0, 2]
    assert class_of(both) == "d-spam+d-species"


def test_noise_makes_the_probabilities_softer(model: TaskModel) -> None:
    text = request("verdict")
    largest = [model.probabilities(embed(text), NOTHING_NEAR, variance).tasks.max() for variance in (0, 0.01, 0.1, 10)]
    assert largest == sorted(largest, reverse=True)
    assert largest[0] > largest[-1] + 0.3


def test_a_new_task_is_fitted_anew_from_where_it_was(learnwares: list[Learnware], model: TaskModel) -> None:
    before = TaskModel(learnwares[:-1], load_home())
    after = before.changed(learnwares[-1:], learnwares)
    assert after.classes == model.classes
    assert before.classes == model.classes[:-1]
    assert after.class_of_learnware.tolist() == model.class_of_learnware.tolist()
    texts = [*map(request, TASKS), "Tell me a joke", f"Translate this into French.\n{material('spam', 104)}"]
    for text in texts:
        found, expected = of(after, text), of(model, text)
        assert found.tasks == pytest.approx(expected.tasks, abs=0.03)
        assert found.home.sum() == pytest.approx(expected.home.sum(), abs=0.03)


def test_another_learnware_of_a_known_task_joins_its_class(learnwares: list[Learnware], model: TaskModel) -> None:
    twin = learnware("twin", learnwares[1].specification, (TASKS[1],))
    after = model.changed([twin], [*learnwares, twin])
    assert after.classes == model.classes
    assert after.class_of_learnware.tolist() == [0, 1, 2, 3, 4, 1]
    assert of(after, request("spam")).tasks == pytest.approx(of(model, request("spam")).tasks)


@pytest.fixture
def grouped(learnwares: list[Learnware], monkeypatch: pytest.MonkeyPatch) -> TaskModel:
    monkeypatch.setattr(task_model, "MOST_CLASSES", 2)
    return TaskModel(learnwares, load_home())


def test_of_many_tasks_groups_are_told_apart_and_within_them_the_nearest(
    grouped: TaskModel, learnwares: list[Learnware]
) -> None:
    for number, task in enumerate(TASKS):
        text = request(task)
        found = of(grouped, text, nearest_to(learnwares, text))
        assert found.tasks.sum() + found.home.sum() == pytest.approx(1)
        assert int(found.tasks.argmax()) == number
        assert found.tasks[number] > 1.5 * np.delete(found.tasks, number).max()
    other = f"Now put that into Italian, please.\n{material('recipe', 103)}"
    assert of(grouped, other, nearest_to(learnwares, other)).home.sum() > 0.5


def test_a_group_of_which_nothing_is_near_loses_nothing(grouped: TaskModel) -> None:
    found = of(grouped, request("colour"))
    assert found.tasks.sum() + found.home.sum() == pytest.approx(1)
    assert found.tasks.sum() > 0.5


def test_a_new_task_among_many_joins_the_group_that_it_is_like(
    learnwares: list[Learnware], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_model, "MOST_CLASSES", 2)
    before = TaskModel(learnwares[:-1], load_home())
    after = before.changed(learnwares[-1:], learnwares)
    assert after.classes == tuple(f"d-{task}" for task in TASKS)
    for task in TASKS[:-1]:
        text = request(task)
        found = of(after, text, nearest_to(learnwares, text))
        assert found.tasks.sum() + found.home.sum() == pytest.approx(1)
        assert int(found.tasks.argmax()) == TASKS.index(task)
    text = request(TASKS[-1])
    found = of(after, text, nearest_to(learnwares, text))
    assert found.tasks.sum() + found.home.sum() == pytest.approx(1)
    assert int(found.tasks.argmax()) == len(TASKS) - 1


def test_a_fit_tells_weighted_points_apart_and_the_home_has_its_share_of_the_weight() -> None:
    dim = ASK_DIM + 8
    generator = np.random.default_rng(0)

    def around(axis: int) -> ReducedSet:
        points = generator.normal(0, 0.02, (20, dim)).astype(np.float32)
        points[:, axis] += 1
        return ReducedSet(points, np.full(20, 0.05))

    tasks, home = {"a": around(0), "b": around(1)}, {"h": around(2)}
    fitted = fit(tasks, home)
    assert fitted.names == ("a", "b", "h")
    for axis in range(3):
        point = np.zeros(dim, np.float32)
        point[axis] = 1
        assert int(fitted.logits(point).argmax()) == axis
    again = fit(tasks, home, fitted)
    assert again.coefficients == pytest.approx(fitted.coefficients, abs=0.05 * float(np.abs(fitted.coefficients).max()))
    alike = around(3)
    for share in (0.5, 0.8):
        one = fit({"a": alike, "b": alike}, {"h": alike}, home_share=share)
        weights = np.exp(one.logits(alike.points[0]))
        expected = [(1 - share) / 2, (1 - share) / 2, share]
        assert weights / weights.sum() == pytest.approx(expected, abs=0.02)
