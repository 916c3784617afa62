"""Checks in a process of their own: what kills them refuses the submission, and nothing else."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from specs.card import CARD_FILE
from specs.errors import CheckDied, InvalidInput, InvalidLearnware
from specs.market.check_messages import receive, send
from specs.market.checks import Requirements
from specs.market.child_checks import CheckLimits, ChildChecks
from specs.market.examination import ChecksHere
from specs.market.intake import Limits
from specs.market.journal import State
from specs.market.store import Market
from tests.specs.learnware_folder import write_learnware
from tests.specs.market.support import edit_card, pack, requirements, variant


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_learnware(tmp_path_factory.mktemp("whole") / "colours-objects")


@pytest.fixture(scope="module")
def checks() -> Iterator[ChildChecks]:
    checks = ChildChecks(CheckLimits(memory_bytes=300 << 20, cpu_s=1, wall_s=8))
    yield checks
    checks.close()


@pytest.fixture
def market(tmp_path: Path, checks: ChildChecks) -> Market:
    return Market(tmp_path / "market", requirements(tmp_path / "base"), checks=checks)


def test_they_say_what_checks_in_this_process_say(market: Market, whole: Path, tmp_path: Path):
    here = Market(tmp_path / "here", requirements(tmp_path / "base"))
    bad = variant(whole, tmp_path / "bad", "bad")
    edit_card(bad, base_model={"id": "another"})
    said = []
    for each in (market, here):
        with each.stage(pack(whole, tmp_path / "whole.zip")) as staged:
            said.append((staged.sha256, staged.card, staged.learnware.layers, staged.learnware.id))
            again = each.with_capability(staged, _capability(staged.folder))
            said[-1] += (again.sha256,)
        with pytest.raises(InvalidLearnware) as refused, each.stage(bad):
            pass
        (record,) = each.records(State.QUARANTINED)
        said[-1] += (str(refused.value), record.id, record.reason, record.card)
    assert said[0] == said[1]


def _capability(folder: Path):
    from specs.adapter import adapter_hash
    from specs.capability import Capability

    return Capability("tiny-base", adapter_hash(folder))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("crash", "crashed (SIGSEGV)"),
        ("kill", "was killed by the system"),
        ("spin", "more than 1 s of computing time"),
        ("sleep", "more than 2 s"),
        ("hoard", "needed more than 300 MiB of memory"),
        ("raise", "failed with ZeroDivisionError"),
    ],
)
def test_a_check_that_dies_refuses_the_submission_and_the_next_one_is_checked(
    whole: Path, tmp_path: Path, fault: str, reason: str
):
    checks = FaultyChecks(CheckLimits(300 << 20, 1, 2 if fault == "sleep" else 30), fault)
    try:
        market = Market(tmp_path / "market", requirements(tmp_path / "base"), checks=checks)
        hostile = variant(whole, tmp_path / "hostile", "hostile")
        with pytest.raises(CheckDied) as died, market.stage(hostile, recorded_as="named"):
            pass
        assert reason in str(died.value)
        (record,) = market.records(State.QUARANTINED)
        assert (record.id, record.card) == ("named", None)  # nothing of it is read any more
        assert market.folder(record) is not None
        with pytest.raises(InvalidLearnware, match="these very files are in quarantine"), market.stage(hostile):
            pass
        with market.stage(whole) as staged:
            market.submit(staged)
        assert market.check_integrity() == []
    finally:
        checks.close()


class FaultyChecks(ChildChecks):
    """Has a check whose process does something else than check, the first time."""

    def __init__(self, limits: CheckLimits, fault: str) -> None:
        super().__init__(limits)
        self._fault = fault

    def check(self, folder: Path, requirements: Requirements, *, unfit_too: bool):
        fault, self._fault = self._fault, ""
        if not fault:
            return super().check(folder, requirements, unfit_too=unfit_too)
        return self._ask("check", Trap(fault), requirements, unfit_too=unfit_too)


class Trap:
    """Stands for a folder; looking at it does what a hostile file might make a parser do."""

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self.name = "trap"

    def __truediv__(self, _name: str) -> Path:
        if self._fault in ("crash", "kill"):
            os.kill(os.getpid(), signal.SIGSEGV if self._fault == "crash" else signal.SIGKILL)
        if self._fault == "sleep":
            time.sleep(60)
        hoard = []
        while self._fault in ("spin", "hoard"):
            if self._fault == "hoard":
                hoard.append(bytes(1 << 20))
        raise ZeroDivisionError("division by zero")


def test_one_that_is_given_up_is_no_refusal(market: Market, checks: ChildChecks, whole: Path, tmp_path: Path):
    os.mkfifo(tmp_path / "never.zip")  # opening it waits for ever
    with pytest.raises(InvalidInput) as given_up:
        threading.Timer(0.5, checks.stop).start()
        checks.take(tmp_path / "never.zip", tmp_path, Limits(), lambda _: None)
    assert not isinstance(given_up.value, InvalidLearnware)
    checks.stop()  # nothing is under way
    with market.stage(whole) as staged:
        assert staged.card.id == "colours-objects"
    assert market.records(None) == []


def test_its_process_ends_with_the_one_that_started_it(tmp_path: Path):
    """Also in the middle of a check."""
    os.mkfifo(tmp_path / "never")
    code = (
        "import os, sys; from pathlib import Path; from specs.market.child_checks import ChildChecks\n"
        "from specs.market.checks import Requirements\n"
        "checks = ChildChecks(); checks.start(); print(checks._process.pid, flush=True)\n"
        "place = Path(sys.argv[1]); checks.check(place, Requirements(), unfit_too=False)\n"
    )
    (tmp_path / "adapter_config.json").symlink_to(tmp_path / "never")
    market = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert market.stdout is not None
    server = int(market.stdout.readline())
    time.sleep(1.5)
    assert Path(f"/proc/{server}").exists()
    market.kill()
    market.wait()
    deadline = time.monotonic() + 10
    while _alive(server):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_secrets_stay_with_the_market(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LEARNWARE_ADMIN_KEY", "a-secret")
    checks = ChildChecks()
    try:
        checks.start()
        assert checks._process is not None
        assert b"a-secret" not in Path(f"/proc/{checks._process.pid}/environ").read_bytes()
    finally:
        checks.close()


def test_messages_come_whole_or_not_at_all():
    reading, writing = os.pipe()
    send(writing, b"one")
    send(writing, b"")
    os.write(writing, (9).to_bytes(8, "big") + b"torn")
    os.close(writing)
    assert [receive(reading), receive(reading), receive(reading)] == [b"one", b"", None]
    os.close(reading)


def test_the_seam_has_one_meaning(whole: Path, tmp_path: Path):
    found = ChecksHere().check(Path(whole), Requirements(), unfit_too=False)
    assert found.learnware is not None
    assert (found.refusal, found.unfit) == (None, None)
    assert (whole / CARD_FILE).is_file()
