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
from specs.market.journal import State
from specs.market.store import Market
from tests.specs.learnware_folder import write_learnware
from tests.specs.market.support import edit_card, pack, requirements, variant


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_learnware(tmp_path_factory.mktemp("whole") / "colours-objects")


LIMITS = CheckLimits(memory_bytes=300 << 20, cpu_s=1, wall_s=30)


class FaultyChecks(ChildChecks):
    """Has one check whose process does something else than check, where `fault` says so."""

    fault = ""

    def check(self, folder: Path, requirements: Requirements, *, unfit_too: bool):
        fault, self.fault = self.fault, ""
        return self._ask("check", Trap(fault) if fault else folder, requirements, unfit_too=unfit_too)


@pytest.fixture(scope="module")
def started() -> Iterator[FaultyChecks]:
    checks = FaultyChecks(LIMITS)
    yield checks
    checks.close()


@pytest.fixture
def checks(started: FaultyChecks) -> FaultyChecks:
    started.fault, started._limits = "", LIMITS
    return started


@pytest.fixture
def market(tmp_path: Path, checks: FaultyChecks) -> Market:
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("crash", "crashed (SIGSEGV)"),
        ("kill", "was killed by the system"),
        ("spin", "more than 1 s of computing time"),
        ("sleep", "more than 1.5 s"),
        ("hoard", "needed more than 300 MiB of memory"),
        ("raise", "failed with ZeroDivisionError"),
    ],
)
def test_a_check_that_dies_refuses_the_submission_and_the_next_one_is_checked(
    market: Market, checks: FaultyChecks, whole: Path, tmp_path: Path, fault: str, reason: str
):
    hostile = variant(whole, tmp_path / "hostile", "hostile")
    checks.fault = fault
    if fault == "sleep":
        checks.start()
        checks._limits = LIMITS._replace(wall_s=1.5)
    with pytest.raises(CheckDied) as died, market.stage(hostile, recorded_as="named"):
        pass
    assert reason in str(died.value)
    checks._limits = LIMITS
    (record,) = market.records(State.QUARANTINED)
    assert (record.id, record.card) == ("named", None)  # nothing of it is read any more
    assert market.folder(record) is not None
    with pytest.raises(InvalidLearnware, match="these very files are in quarantine"), market.stage(hostile):
        pass
    with market.stage(whole) as staged:
        market.submit(staged)
    assert market.check_integrity() == []


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


@pytest.mark.slow
def test_one_that_is_given_up_is_no_refusal(market: Market, checks: FaultyChecks, whole: Path):
    checks.fault = "sleep"
    threading.Timer(1, checks.stop).start()
    with pytest.raises(InvalidInput, match="given up") as given_up, market.stage(whole):
        pass
    assert not isinstance(given_up.value, InvalidLearnware)
    checks.stop()  # nothing is under way
    with market.stage(whole) as staged:
        assert staged.card.id == "colours-objects"
    assert market.records(None) == []


@pytest.mark.slow
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
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as market:
        assert market.stdout is not None
        server = int(market.stdout.readline())
        time.sleep(1.5)
        assert _alive(server)
        market.kill()
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
