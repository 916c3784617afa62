"""The secrets that sign the router's choices: kept with the market, alike for all who build from it."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from router.choice import RoutedChoice, decode_choice, encode_choice
from serving.signing import FILE, VARIABLE, signing_secrets
from specs.errors import StartupError
from tests.support import ROOT

OLD, NEW = "o" * 32, "n" * 32
CHOICE = RoutedChoice("finance-tfns", "matched", 0.5, 1.0)


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_the_market_keeps_the_secret_for_its_owner_alone(tmp_path: Path) -> None:
    market = tmp_path / "market"
    first = signing_secrets(market)
    assert signing_secrets(market) == first
    assert [path.name for path in market.iterdir()] == [FILE]
    assert (market / FILE).stat().st_mode & 0o777 == 0o600


def test_without_a_market_each_build_has_a_secret_of_its_own() -> None:
    assert signing_secrets(None) != signing_secrets(None)
    assert len(signing_secrets(None)[0]) >= 32


def test_processes_that_make_it_at_once_get_the_same(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from serving.signing import signing_secrets\n"
        "print('ready', flush=True); sys.stdin.readline(); print(signing_secrets(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    said = {process.communicate(timeout=30)[0] for process in processes}
    assert said == {f"{signing_secrets(tmp_path)}\n"}


def test_a_process_that_comes_second_keeps_the_first_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both saw no file; the other one made it in between."""
    (tmp_path / FILE).write_text(OLD)
    seen = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path.name != FILE and seen(path))
    assert signing_secrets(tmp_path) == (OLD.encode(),)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_the_variable_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signing_secrets(tmp_path)
    monkeypatch.setenv(VARIABLE, f"{NEW}, {OLD}")
    assert signing_secrets(tmp_path) == (NEW.encode(), OLD.encode())


def test_each_step_of_a_change_is_read_by_the_replicas_of_the_step_before_and_after() -> None:
    old, new = OLD.encode(), NEW.encode()
    steps = [(old,), (old, new), (new, old), (new,)]
    for before, after in itertools.pairwise(steps):
        for router, replica in [(before, after), (after, before), (after, after)]:
            assert decode_choice(encode_choice(CHOICE, router[0]), *replica) == CHOICE
    assert decode_choice(encode_choice(CHOICE, new), old) is None
    assert decode_choice(encode_choice(CHOICE, new)) is None


@pytest.mark.parametrize("text", ["", "short", f"{OLD} short", f"{OLD} {NEW} {OLD}"])
def test_a_file_without_a_usable_secret_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(StartupError, match=rf"{FILE} must hold one secret, or two, each of at least 16 characters"):
        signing_secrets(tmp_path)


def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "market").write_text("no folder")
    with pytest.raises(StartupError, match=rf"make the folder writable, or set {VARIABLE}"):
        signing_secrets(tmp_path / "market")
