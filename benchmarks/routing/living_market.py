"""Measures a change of a large market beside requests: how soon it is visible, and how long it keeps a request waiting.

The router's side, in one process, as in a replica: one thread makes choices without a pause while another one follows
a published catalogue to which learnwares are added one at a time. The catalogues are written beforehand, as another
process would; the added learnwares are read from folders. For each addition there is a control, as long and
directly before it, in which nothing is added. A choice's wait is its time by the clock less its thread's processor
time and less the time in which the thread could run and other processes had the cores (`/proc/self/task/…/schedstat`):
what is left is waiting for the interpreter or a lock.
"""

import gc
import itertools
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.selection import Selector
from router.settings import SelectionSettings
from router.snapshot import SnapshotBuilder, load_for_selection, serve_beside_changes
from specs.card import CARD_FILE, load_card, save_card
from specs.learnware import SPECIFICATION_FOLDER, Learnware
from specs.market.catalogue import CATALOGUE_FILE, Catalogue, CatalogueWatch, Entry, write_catalogue
from specs.market.follower import POLL_S
from specs.specification import save_specification

CONTROL_S = 0.15
"""Length of a window without an addition, seconds; additions take about as long, or less."""


class Window(NamedTuple):
    """A window of time with the waits, in milliseconds, of the choices that ended in it."""

    waits: NDArray[np.float64]

    @property
    def longest(self) -> float:
        return float(self.waits.max())


class Additions(NamedTuple):
    """The seconds of each addition's steps, the windows with and without one, and the selector after all of them."""

    written: list[float]
    read: list[float]
    applied: list[float]
    with_addition: list[Window]
    without: list[Window]
    rebuilding: Window
    rebuild_s: float
    selector: Selector


class _Chooser(threading.Thread):
    """A thread that makes choices until it is told to stop; `taken` holds (end, wait in ms) of each."""

    def __init__(self, builder: SnapshotBuilder, texts: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self._builder, self._texts = builder, texts
        self.stopped = threading.Event()
        self.taken: list[tuple[float, float]] = []

    def run(self) -> None:
        file = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        try:
            for text in itertools.cycle(self._texts):
                if self.stopped.is_set():
                    return
                started, without = time.perf_counter(), _ran_or_queued(file)
                snapshot = self._builder.snapshot
                assert snapshot is not None
                snapshot.selector.choose(text)
                ended = time.perf_counter()
                self.taken.append((ended, (ended - started - (_ran_or_queued(file) - without)) * 1000))
        finally:
            os.close(file)

    def window(self, start: float, end: float) -> Window:
        """Returns the choices that ran in this time, with the one after `end`, which may have waited."""
        taken = self.taken[:]
        ends = np.array([moment for moment, _ in taken])
        first, last = np.searchsorted(ends, [start, end])
        return Window(np.array([wait for _, wait in taken[first : last + 1]]))


def _ran_or_queued(file: int) -> float:
    """Returns the seconds for which this thread ran on a processor or queued for one, from its open `schedstat`."""
    queued = int(os.pread(file, 100, 0).split()[1]) / 1e9
    return time.thread_time() + queued


def measure_additions(
    learnwares: Sequence[Learnware], added: Sequence[Learnware], texts: Sequence[str], settings: SelectionSettings
) -> Additions:
    """Adds `added`, one at a time, to a market of `learnwares`, then fits the whole market anew."""
    interval = sys.getswitchinterval()
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _measure(Path(folder), learnwares, added, texts, settings)
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()


def _measure(
    root: Path,
    learnwares: Sequence[Learnware],
    added: Sequence[Learnware],
    texts: Sequence[str],
    settings: SelectionSettings,
) -> Additions:
    entries = [_entry(root, number, learnware) for number, learnware in enumerate(learnwares)]
    in_memory = {entry.sha256: learnware for entry, learnware in zip(entries, learnwares, strict=True)}
    builder = SnapshotBuilder(settings, lambda entry: in_memory.get(entry.sha256) or load_for_selection(entry))
    written = [_publish(root, 0, entries)]
    for number, learnware in enumerate(added, 1):
        entries.append(_entry(root, len(entries), learnware))
        _write_folder(learnware, entries[-1].folder)
        written.append(_publish(root, number, entries))
    watch = CatalogueWatch(root)
    _show(root, 0)
    _apply(builder, watch)
    serve_beside_changes()
    chooser = _Chooser(builder, texts)
    chooser.start()
    time.sleep(2 * CONTROL_S)
    read, applied, spans = [], [], []
    for number in range(1, len(added) + 1):
        before = time.perf_counter()
        time.sleep(CONTROL_S)
        _show(root, number)
        started = time.perf_counter()
        middle = _apply(builder, watch)
        ended = time.perf_counter()
        read.append(middle - started)
        applied.append(ended - middle)
        spans.append((before, started, ended))
    started = time.perf_counter()
    builder.rebuild()
    ended = time.perf_counter()
    time.sleep(CONTROL_S)
    chooser.stopped.set()
    chooser.join()
    assert builder.snapshot is not None
    return Additions(
        written[1:],
        read,
        applied,
        [chooser.window(start, end) for _, start, end in spans],
        [chooser.window(start, end) for start, end, _ in spans],
        chooser.window(started, ended),
        ended - started,
        builder.snapshot.selector,
    )


def figures(found: Additions, count: int) -> dict[str, float]:
    """Returns the figures of additions. `add_visible_s` is the slowest addition, from the start of writing its
    catalogue, including the whole interval at which the file is polled. `add_blocks_ms` is the longest wait of a
    request in any window with an addition; the median of the windows' longest waits, and the same without an addition,
    are beside it."""
    steps = np.array([found.written, found.read, found.applied])
    slowest = steps.sum(0).max() + POLL_S
    waits = {"add": found.with_addition, "control": found.without}
    figures = {
        f"add_visible_s_n{count}": float(slowest),
        **{
            f"add_{name}_s_n{count}": float(median)
            for name, median in zip(("write", "read", "apply"), np.median(steps, 1), strict=True)
        },
        f"rebuild_s_n{count}": found.rebuild_s,
        f"rebuild_wait_p999_ms_n{count}": float(np.quantile(found.rebuilding.waits, 0.999)),
        f"rebuild_wait_max_ms_n{count}": found.rebuilding.longest,
    }
    for name, windows in waits.items():
        every = np.concatenate([window.waits for window in windows])
        figures |= {
            f"{name}_blocks_ms_n{count}": max(window.longest for window in windows),
            f"{name}_blocks_median_ms_n{count}": float(np.median([window.longest for window in windows])),
            f"{name}_wait_p999_ms_n{count}": float(np.quantile(every, 0.999)),
        }
    return figures


def _apply(builder: SnapshotBuilder, watch: CatalogueWatch) -> float:
    """Applies a new catalogue as a follower does, and returns when it had been read."""
    catalogue = watch.changed()
    assert catalogue is not None
    moment = time.perf_counter()
    builder.build(catalogue)
    return moment


def _entry(root: Path, number: int, learnware: Learnware) -> Entry:
    sha256 = f"{number:064x}"
    return Entry(learnware.id, learnware.version, sha256, root / "objects" / sha256)


def _publish(root: Path, number: int, entries: Sequence[Entry]) -> float:
    """Writes a catalogue for `_show` to publish, and returns the seconds that took."""
    started = time.perf_counter()
    write_catalogue(root, Catalogue(number, tuple(entries)))
    taken = time.perf_counter() - started
    (root / CATALOGUE_FILE).rename(root / f"{number}.json")
    return taken


def _show(root: Path, number: int) -> None:
    (root / f"{number}.json").replace(root / CATALOGUE_FILE)


def _write_folder(learnware: Learnware, folder: Path) -> None:
    """Writes a learnware's folder without its weights, which a router does not read."""
    folder.mkdir(parents=True)
    save_specification(learnware.specified, folder / SPECIFICATION_FOLDER)
    shutil.copy(learnware.folder / "adapter_config.json", folder)
    save_card(load_card(learnware.folder / CARD_FILE).model_copy(update={"id": learnware.id}), folder / CARD_FILE)


def named(learnwares: Sequence[Learnware], prefix: str) -> list[Learnware]:
    """Returns the learnwares under the ids `prefix`-0, `prefix`-1 and so on."""
    return [replace(learnware, id=f"{prefix}-{number}") for number, learnware in enumerate(learnwares)]
