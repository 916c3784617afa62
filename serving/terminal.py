"""Parts that several commands share: the options that name the base model, and progress bars."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self


def add_base_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name the base model, the folder of prepared ones, and the device and threads that it runs
    on."""
    parser.add_argument(
        "--base", default="embedded", help="'embedded', a local folder, or a hub id (default: %(default)s)"
    )
    parser.add_argument(
        "--base-id", default=None, help="the id that adapters name as their base (default: from --base)"
    )
    parser.add_argument("--cache", type=Path, default=None, help="where prepared base models are kept")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)


class Progress:
    """A tqdm bar over steps whose total is known only when the work begins."""

    def __init__(self, title: str, unit: str = "step"):
        from tqdm import tqdm  # type: ignore[import-untyped]

        self._bar = tqdm(desc=title, unit=unit, dynamic_ncols=True, mininterval=1.0)
        self.say: Callable[[str], None] = self._bar.write

    def show(self, step: int, total: int, text: str) -> None:
        """Moves the bar to `step` of `total` and shows `text` behind it."""
        self._bar.total = total
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class ByteBar:
    """A bar of the bytes taken in, shown on a terminal only and removed when done."""

    def __init__(self, title: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(desc=title, unit="B", unit_scale=True, leave=False, disable=None)

    def bytes(self, count: int) -> None:
        """Moves the bar on by `count` bytes."""
        self._bar.update(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
