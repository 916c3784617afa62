"""Files are the old ones or the new ones; locks exclude others and end with their holder, however it ends."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import Timeout

from specs.files import file_lock, is_held, write_atomically

HOLD = """
import sys, time
from pathlib import Path
from specs.files import file_lock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def test_a_file_is_replaced_and_nothing_else_stays(path: Path) -> None:
    for content in (b"old", b"new"):
        write_atomically(path, content)
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    write_atomically(path, b"old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_named_temporary_of_a_killed_writer_is_overwritten(path: Path) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(b"half of something longer")
    write_atomically(path, b"new", temporary)
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_writers_of_one_file_do_not_mix(path: Path) -> None:
    contents = [bytes([65 + number]) * 200_000 for number in range(8)]
    threads = [threading.Thread(target=write_atomically, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert list(path.parent.iterdir()) == [path]


def test_a_lock_excludes_others_of_this_process_and_is_given_back(path: Path) -> None:
    with file_lock(path):
        assert is_held(path)
        with pytest.raises(Timeout):
            file_lock(path).acquire(timeout=0)
    assert not is_held(path)
    with file_lock(path).acquire(timeout=0):
        pass


def test_a_lock_ends_with_its_process(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_held(path)
        with pytest.raises(Timeout):
            file_lock(path).acquire(timeout=0)
        holder.kill()
        holder.wait()
    assert not is_held(path)


def test_looking_whether_a_lock_is_held_makes_no_file(path: Path) -> None:
    assert not is_held(path)
    assert not path.exists()


def test_a_lock_file_that_was_removed_before_it_was_held_is_made_again(path: Path) -> None:
    """Who held the lock may remove its file: a waiter then holds a new file, not the one that has no name any more."""
    waiting = file_lock(path)
    with file_lock(path):
        waiter = threading.Thread(target=waiting.acquire)
        waiter.start()
        path.unlink()
    waiter.join()
    assert path.exists()
    assert is_held(path)
    waiting.release()
    assert not is_held(path)
