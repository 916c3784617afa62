"""What feedback says reaches the choice with the snapshot, for the versions that are served, and can be taken back."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from router.ranking import Ranking
from router.selection import Selector
from router.settings import SelectionSettings
from router.snapshot import SnapshotBuilder
from router.task_model import Probabilities, TaskModel
from specs.encoding.encoder import load_prompt_encoder
from specs.evidence import Evidence, LearntTask, Posterior
from specs.home import load_home
from specs.learnware import Learnware
from specs.market.catalogue import Catalogue, Entry
from specs.rkme import ReducedSet
from tests.router.made_learnwares import HARMLESS, capability, learnware, probe, request, specification_of

NAME = "learnt:species"


def vectors(task: str, count: int, first: int) -> np.ndarray:
    return load_prompt_encoder().encode([request(task, first + number) for number in range(count)])


@pytest.fixture(scope="module")
def made() -> Mapping[str, Learnware]:
    spam = specification_of("spam")
    return {
        "recipe": learnware("recipe", specification_of("recipe"), ["recipe"], capability({"d-recipe": probe(0.8)})),
        "spam": learnware("spam", spam, ["spam"], capability({"d-spam": probe(0.8)}, HARMLESS)),
    }


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    points = vectors("species", 16, 0)
    task = LearntTask(NAME, ReducedSet(points, np.full(16, 1 / 16)), 0.3, 16, 3)
    row = {"spam": Posterior(0.4, 0.9, 16.0, entry("spam", "1").engine_name), "recipe": Posterior(-0.1, 0.5)}
    return Evidence(1, 0.0, load_prompt_encoder().fingerprint, (task,), {NAME: row})


def entry(name: str, version: str) -> Entry:
    return Entry(name, int(version), (version + name).ljust(64, "0"), Path("nowhere"))


def chosen(selector: Selector | None, some: np.ndarray) -> set[str | None]:
    assert selector is not None
    return {selector.choose_embedded(vector).learnware_id for vector in some}


def test_a_learnt_task_is_a_class_of_its_own(made: Mapping[str, Learnware], evidence: Evidence) -> None:
    learnt = {NAME: evidence.tasks[0].reduced}
    model = TaskModel(list(made.values()), load_home(), None, learnt)
    assert model.classes[-1] == NAME
    assert model.learnt.tolist() == [len(model.classes) - 1]
    later = model.changed([made["spam"]], [*made.values(), made["spam"]])
    assert later.classes == model.classes


def test_a_posterior_takes_the_place_of_what_was_expected(made: Mapping[str, Learnware], evidence: Evidence) -> None:
    home = ("everyday",)
    classes = ("d-recipe", "d-spam", NAME)
    ranking = Ranking(list(made.values()), classes, home, evidence)
    quality, matches, base = ranking.expect(Probabilities(np.array([0, 0, 1.0]), np.zeros(1)))
    assert base == pytest.approx(0.3)
    assert quality == pytest.approx([0.3 - 0.1, 0.3 + 0.4])
    assert matches.tolist() == [0, 1]


def test_feedback_on_a_task_that_no_probe_measured_leaves_akin_learnwares_alone(made: Mapping[str, Learnware]) -> None:
    plain = [learnware(name, one.specified, one.tasks) for name, one in made.items()]  # both answer yes or no
    told = Evidence(1, 0.0, "f", (), {"d-spam": {"spam": Posterior(0.4, 0.9, 9.0)}})
    at = Probabilities(np.array([0, 1.0]), np.zeros(1))
    before, after = (Ranking(plain, ("d-recipe", "d-spam"), ("everyday",), one).expect(at)[0] for one in (None, told))
    assert after[0] == pytest.approx(before[0])
    assert after[1] == pytest.approx(0.5 + 0.4)


def test_evidence_is_in_the_snapshot_until_it_is_taken_back(made: Mapping[str, Learnware], evidence: Evidence) -> None:
    builder = SnapshotBuilder(SelectionSettings(), lambda one: made[one.id])
    builder.build(Catalogue(1, (entry("recipe", "1"), entry("spam", "1"))))
    species = vectors("species", 6, 300)
    taught = builder.teach(evidence)
    assert taught is not None
    assert chosen(taught.selector, species) == {"spam"}
    assert builder.teach(evidence) is taught  # nothing is fitted anew for the same
    renewed = builder.build(Catalogue(2, (entry("recipe", "1"), entry("spam", "2"))))
    assert renewed is not None
    assert chosen(renewed.selector, species) != {"spam"}  # a new version starts from its probes
    again = builder.build(Catalogue(3, (entry("recipe", "1"), entry("spam", "1"))))
    assert again is not None
    assert chosen(again.selector, species) == {"spam"}
    back = builder.teach(None)
    assert back is not None
    assert chosen(back.selector, species) == {None}


def test_points_of_another_encoder_make_no_task(made: Mapping[str, Learnware], evidence: Evidence) -> None:
    other = Evidence(1, 0.0, "another", evidence.tasks, evidence.posteriors)
    selector = Selector(list(made.values()), load_prompt_encoder(), SelectionSettings(), evidence=other)
    assert chosen(selector, vectors("species", 3, 300)) == {None}


def test_a_learnt_task_stays_one_when_a_learnware_of_another_task_comes(
    made: Mapping[str, Learnware], evidence: Evidence
) -> None:
    first = Selector(list(made.values()), load_prompt_encoder(), SelectionSettings(), evidence=evidence)
    verdict = specification_of("verdict")
    later = first.changed([learnware("verdict", verdict, ["verdict"], capability({"d-verdict": probe(0.8)}))], [])
    assert chosen(later, vectors("species", 6, 300)) == {"spam"}
    assert chosen(later, vectors("verdict", 6, 300)) == {"verdict"}
    assert chosen(later, vectors("recipe", 6, 300)) == {"recipe"}
