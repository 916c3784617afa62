"""The store of task specifications: whose each is, how many one owner may have, and when one goes."""

import os
from pathlib import Path

import numpy as np
import pytest

from specs.errors import StoreFull, TaskQuotaReached
from specs.task import TaskSpecification, dump_task_specification, make_task_specification, task_id
from specs.task_store import TOUCH_EVERY_S, TaskStore


class Random:
    """An encoder whose vectors are random: a store does not look at them."""

    id, fingerprint, dim = "random", "0" * 64, 4

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.random.default_rng().normal(size=(len(texts), self.dim)).astype(np.float32)


DAY = 86_400.0


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def made() -> list[TaskSpecification]:
    return [make_task_specification([f"row {row}" for row in range(20)], Random()) for _ in range(5)]


def store(tmp_path: Path, clock: Clock, **options: float) -> TaskStore:
    return TaskStore(tmp_path, keep_s=90 * DAY, clock=clock, **options)  # type: ignore[arg-type]


def kept(tmp_path: Path) -> int:
    return len(list((tmp_path / "tasks").glob("*.spec")))


def marks(tmp_path: Path) -> int:
    return sum(path.is_file() for path in (tmp_path / "tasks" / "owners").rglob("*"))


@pytest.fixture(autouse=True)
def any_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specs.task._known_encoder", lambda _: Random)


def test_an_owner_removes_their_own_and_nobody_elses(tmp_path: Path, clock: Clock, made) -> None:
    tasks = store(tmp_path, clock)
    name = tasks.put(made[0], "alice")
    assert tasks.is_owner(name, "alice")
    assert not tasks.is_owner(name, "bob")
    assert not tasks.remove(name, "bob")
    assert tasks.find(name) is not None
    assert tasks.remove(name, "alice")
    assert not tasks.remove(name, "alice")
    assert (tasks.find(name), kept(tmp_path), marks(tmp_path)) == (None, 0, 0)


def test_a_file_that_two_have_posted_stays_until_both_have_removed_it(tmp_path: Path, clock: Clock, made) -> None:
    tasks = store(tmp_path, clock)
    name = tasks.put(made[0], "alice")
    assert tasks.put(made[0], "bob") == name
    assert tasks.remove(name, "alice")
    assert not tasks.is_owner(name, "alice")
    assert tasks.find(name) is not None
    assert tasks.remove(name, "bob")
    assert tasks.find(name) is None
    name = tasks.put(made[0], "alice")
    tasks.put(made[0], "bob")
    assert tasks.remove(name)  # as the admin does
    assert (tasks.find(name), marks(tmp_path)) == (None, 0)


def test_a_quota_counts_one_owners_files_that_are_there(tmp_path: Path, clock: Clock, made) -> None:
    tasks = store(tmp_path, clock, max_owned=2)
    first, second = (tasks.put(each, "alice") for each in made[:2])
    with pytest.raises(TaskQuotaReached, match="2 task specifications of this key"):
        tasks.put(made[2], "alice")
    assert kept(tmp_path) == 2
    tasks.put(made[1], "alice")  # again
    tasks.put(made[2], "bob")
    tasks.put(made[3], "alice", unbounded=True)
    tasks.remove(first, "alice")
    tasks.remove(second, "alice")
    tasks.put(made[4], "alice")
    (tmp_path / "tasks" / f"{task_id(made[4]).removeprefix('task:')}.spec").unlink()  # by hand
    tasks.put(made[0], "alice")
    with pytest.raises(TaskQuotaReached):
        tasks.put(made[1], "alice")


def test_what_nobody_uses_goes_and_what_somebody_uses_stays(tmp_path: Path, clock: Clock, made) -> None:
    tasks = store(tmp_path, clock)
    router = TaskStore(tmp_path, clock=clock)  # as a router has it: it keeps no time
    unused, used = tasks.put(made[0], "alice"), tasks.put(made[1], "alice")
    for path in (tmp_path / "tasks").glob("*.spec"):
        os.utime(path, (clock.now, clock.now))
    clock.now += 80 * DAY
    assert router.find(used) is not None
    clock.now += 20 * DAY
    assert tasks.find(unused) is None
    assert tasks.find(used) is not None
    tasks.put(made[2], "bob")
    assert (kept(tmp_path), marks(tmp_path)) == (2, 2)
    assert not tasks.is_owner(unused, "alice")
    clock.now += 91 * DAY
    tasks.put(made[2], "bob")
    assert kept(tmp_path) == 1


def test_a_use_is_noted_once_an_hour(tmp_path: Path, clock: Clock, made) -> None:
    tasks = store(tmp_path, clock)
    name = tasks.put(made[0])
    (path,) = (tmp_path / "tasks").glob("*.spec")
    os.utime(path, (clock.now, clock.now))
    clock.now += TOUCH_EVERY_S - 1
    tasks.find(name)
    assert path.stat().st_mtime == clock.now - TOUCH_EVERY_S + 1
    clock.now += 2
    tasks.find(name)
    assert path.stat().st_mtime == clock.now


def test_a_full_store_frees_itself(tmp_path: Path, clock: Clock, made) -> None:
    tasks = store(tmp_path, clock, max_tasks=2)
    for each in made[:2]:
        tasks.put(each, "alice")
    for path in (tmp_path / "tasks").glob("*.spec"):
        os.utime(path, (clock.now, clock.now))
    clock.now += 89 * DAY
    with pytest.raises(StoreFull):
        tasks.put(made[2], "bob")
    assert not tasks.is_owner(task_id(made[2]), "bob")
    clock.now += 2 * DAY
    name = tasks.put(made[2], "bob")
    assert tasks.find(name) is not None


def test_files_of_an_earlier_version_are_nobodys_and_expire_likewise(tmp_path: Path, clock: Clock, made) -> None:
    (tmp_path / "tasks").mkdir()
    name = task_id(made[0])
    path = tmp_path / "tasks" / f"{name.removeprefix('task:')}.spec"
    path.write_bytes(dump_task_specification(made[0]))
    os.utime(path, (clock.now, clock.now))
    tasks = store(tmp_path, clock)
    assert tasks.find(name) is not None
    assert not tasks.has_owner(name)
    assert not tasks.remove(name, "alice")
    clock.now += 91 * DAY
    assert tasks.find(name) is None
    tasks.put(made[1], "alice")
    assert not path.exists()
