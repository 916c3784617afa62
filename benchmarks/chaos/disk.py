"""Bad disks under the market: full, read-only, and a corrupt catalogue. Nothing may be lost, reads go on, and the stack
starts again.

The market lies on a file system of its own in memory (tmpfs) where this user may mount one: it is filled, and mounted
read-only. Elsewhere a limit on the size of written files (RLIMIT_FSIZE), set on the market's process alone, stands in
for both; the result says which it was.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence, Set as AbstractSet
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.chaos import market
from benchmarks.chaos.figures import Findings
from benchmarks.chaos.target import Role, Setting, Target, running, wait_until_whole
from specs.market.catalogue import CATALOGUE_FILE

NAME = "disk"
KEPT = "chaos-kept"
REFUSED = "chaos-refused"
REMOVED = "chaos-removed"
"""Learnwares of this scenario: one that stays, one submitted while the disk is full, one removed then."""
SETTLE_S = 5.0
"""Seconds in which the market must be settled once its disk is good again."""
REPLACED_WAIT_S = 240.0
SIZE = "size=400m"
GARBAGE = b'{"format": 99, "entries": [[[[' * 40
TRIES = 10


class Step(NamedTuple):
    """One look at the stack, while a disk is bad in one way or after."""

    name: str
    failed_reads: int
    """Reads of the market, and questions to the engine, that were not answered, of `TRIES` each."""
    lost: Sequence[str]
    """Learnwares that should be served and are not."""
    gained: Sequence[str] = ()
    """Learnwares that are served and should not be, such as one whose submission failed."""
    status: int | None = None
    """The status of the submission meanwhile; None where none was sent, or for no answer."""
    is_honest: bool = True
    """False where the submission was answered neither with success nor with an error object."""
    seconds: float = 0.0


def evaluate(steps: Sequence[Step], restarted: bool, way: str, *, replaced: bool = True) -> Findings:
    lost = sorted({f"{step.name}: {one}" for step in steps for one in step.lost})
    gained = sorted({f"{step.name}: {one}" for step in steps for one in step.gained})
    odd = [step for step in steps if not step.is_honest]
    figures = {
        "disk_lost": float(len(lost)),
        "disk_gained": float(len(gained)),
        "disk_failed_reads": float(sum(step.failed_reads for step in steps)),
        "disk_not_restarted": float(not restarted) + float(not replaced),
        "disk_wrong_answers": float(len(odd)),
    }
    faults = [f"lost: {one}" for one in lost] + [f"served though it failed: {one}" for one in gained]
    faults += [f"{step.name}: {step.failed_reads} reads failed" for step in steps if step.failed_reads]
    faults += [f"{step.name}: the submission was answered {step.status}, without an error object" for step in odd]
    if not replaced:
        faults.append("a killed replica was not replaced while the catalogue was corrupt")
    if not restarted:
        faults.append("the stack did not start again on the corrupt catalogue")
    return Findings(figures, {}, faults, {"way": way, "steps": [step._asdict() for step in steps]})


class Disk:
    """The folder that a market lies in, which can be made bad; `way` says how that is done."""

    def __init__(self, folder: Path, is_mounted: bool) -> None:
        self.folder, self._is_mounted = folder, is_mounted
        self.way = "tmpfs" if is_mounted else "RLIMIT_FSIZE of the market's process"

    @contextmanager
    def full(self, target: Target) -> Iterator[None]:
        if not self._is_mounted:
            with self._limited(target, 4096):
                yield
            return
        filler = self.folder.parent / "filler"
        with filler.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        try:
            yield
        finally:
            filler.unlink()

    @contextmanager
    def read_only(self, target: Target) -> Iterator[None]:
        # Linux refuses it while a file there is open for writing.
        if not self._is_mounted or not _mount("remount,ro", self.folder.parent):
            self.way += "; read-only by RLIMIT_FSIZE"
            with self._limited(target, 0):
                yield
            return
        try:
            yield
        finally:
            _mount("remount,rw", self.folder.parent)

    @staticmethod
    @contextmanager
    def _limited(target: Target, most: int) -> Iterator[None]:
        """Bounds what the market's processes may write into one file, bytes."""
        processes = target.of_role(Role.MARKET)
        if not processes:
            raise ValueError("no process of the market was found, so its disk cannot be made bad")
        before = {one: one.rlimit(psutil.RLIMIT_FSIZE) for one in processes}
        for one in processes:
            one.rlimit(psutil.RLIMIT_FSIZE, (most, before[one][1]))
        try:
            yield
        finally:
            for one, limits in before.items():
                with contextlib.suppress(psutil.Error):
                    one.rlimit(psutil.RLIMIT_FSIZE, limits)


def _mount(options: str, folder: Path) -> bool:
    command = ["mount", "-o", options, "-t", "tmpfs", "none", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def disk_in(folder: Path) -> Iterator[Disk]:
    """Makes the folder of a market, on a file system of its own where that is allowed."""
    folder.mkdir()
    is_mounted = _mount(SIZE, folder)
    try:
        yield Disk(folder / "market", is_mounted)
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def drive(scratch: Path, *, with_keys: bool, logs: Path) -> Findings:
    steps: list[Step] = []
    is_whole = is_replaced = False
    with ExitStack() as cleanup:
        disk = cleanup.enter_context(disk_in(scratch / f"disk-{time.time_ns()}"))
        setting = Setting(replicas=1, market=disk.folder)
        print(f"  disk: {disk.way}", flush=True)
        with running(setting, scratch, with_keys=with_keys, logs=logs) as (target, _):
            market.submit(target, KEPT)
            market.submit(target, REMOVED)
            wanted = market.served(target) - {REMOVED}
            for name, bad in (("full disk", disk.full), ("read-only disk", disk.read_only)):
                with bad(target):
                    with contextlib.suppress(OSError):
                        market.remove(target, REMOVED)
                    steps.append(_look(target, name, wanted, submits=True, unsettled={REMOVED}))
                print(f"  disk: {steps[-1]}", flush=True)
                time.sleep(SETTLE_S)
                steps.append(_look(target, f"after the {name}", wanted, unsettled={REMOVED}))
            # Whatever a removal was answered, from here on it holds or it does not.
            wanted = market.served(target)
            spoil_catalogue(disk.folder)
            time.sleep(SETTLE_S)
            steps.append(_look(target, "corrupt catalogue", wanted))
            print(f"  disk: {steps[-1]}", flush=True)
            is_replaced = _is_replaced(target, disk.folder)
        with contextlib.suppress(OSError, RuntimeError):
            spoil_catalogue(disk.folder)
        try:
            with running(setting, scratch, with_keys=with_keys, logs=logs) as (target, _):
                is_whole = target.is_answering()
                steps.append(_look(target, "restarted on it", wanted))
                print(f"  disk: {steps[-1]}", flush=True)
        except Exception as error:  # noqa: BLE001 - whatever kept it from starting is the finding
            print(f"  disk: not started again: {str(error)[-300:]}", flush=True)
        return evaluate(steps, is_whole, disk.way, replaced=is_replaced)


def _is_replaced(target: Target, folder: Path) -> bool:
    """Kills the engine replica while the catalogue is corrupt; tells whether there is a whole one in its place."""
    found = target.of_role(Role.REPLICA)
    if not found:
        return False
    spoil_catalogue(folder)
    found[0].kill()
    psutil.wait_procs(found[:1], timeout=10)
    time.sleep(SETTLE_S)  # until the edge knows it too
    seconds = wait_until_whole(target, REPLACED_WAIT_S)
    print(f"  disk: replica replaced with a corrupt catalogue: {seconds}", flush=True)
    return seconds is not None


def spoil_catalogue(folder: Path) -> None:
    """Overwrites every published catalogue below a market's folder with what is none."""
    for path in folder.rglob(CATALOGUE_FILE):
        path.write_bytes(GARBAGE)


def _look(
    target: Target, name: str, wanted: set[str], *, submits: bool = False, unsettled: AbstractSet[str] = frozenset()
) -> Step:
    """Reads, and submits a learnware if it should; `wanted` then has that one too where it was accepted. Those that are
    `unsettled` may be served or not."""
    status: int | None = None
    is_honest = True
    started = time.monotonic()
    if submits:
        try:
            market.submit(target, REFUSED)
            status = 201
            wanted.add(REFUSED)  # whoever says that it is published must keep it
        except OSError as error:
            status = getattr(error, "code", None)
            said = error.read(2000) if hasattr(error, "read") else b""
            is_honest = b'"error"' in said
    seconds = time.monotonic() - started
    failed, seen = 0, set(wanted)
    for _ in range(TRIES):
        try:
            seen = market.served(target)
        except OSError:
            failed += 1
        failed += not target.is_answering()
    gained = sorted(seen - wanted - unsettled)
    return Step(name, failed, sorted(wanted - seen - unsettled), gained, status, is_honest, seconds)
