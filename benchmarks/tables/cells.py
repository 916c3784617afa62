"""Cells of a table of figures: numbers as text, their intervals, and whether an aim is met."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from specs.errors import InvalidInput

NOT_MEASURED = "–"
MISSED = "✗"


class Form(NamedTuple):
    """How a figure is written: its factor, decimals and unit, and whether positive numbers have a sign."""

    digits: int = 2
    scale: float = 1.0
    unit: str = ""
    is_signed: bool = False

    def number(self, value: float) -> str:
        """Returns the figure as text without its unit; the minus is a typographic one."""
        return f"{self.scale * value:{'+' if self.is_signed else ''}.{self.digits}f}".replace("-", "−")

    def round_number(self, value: float) -> str:
        """Returns a bound as text without its unit and without zeros at its end."""
        return f"{self.scale * value:{'+' if self.is_signed else ''}.6g}".replace("-", "−")


WHOLE, TENTHS, HUNDREDTHS, THOUSANDTHS, FINE = (Form(digits) for digits in range(5))
SIGNED_TENTHS, SIGNED = Form(1, is_signed=True), Form(is_signed=True)
PERCENT = Form(1, 100, " %")
"""Writes a share between 0 and 1."""


class Aim(NamedTuple):
    """A bound that a figure should keep: at least `bound`, or at most where `is_upper`."""

    bound: float
    is_upper: bool

    def text(self, value: float | None, form: Form) -> str:
        """Returns the bound as text, marked where `value` misses it."""
        mark = "" if value is None or self.is_met(value) else f" {MISSED}"
        return f"{'≤' if self.is_upper else '≥'} {form.round_number(self.bound)}{form.unit}{mark}"

    def is_met(self, value: float) -> bool:
        return value <= self.bound if self.is_upper else value >= self.bound


def at_least(bound: float) -> Aim:
    return Aim(bound, is_upper=False)


def at_most(bound: float) -> Aim:
    return Aim(bound, is_upper=True)


class Quantity(NamedTuple):
    """A figure of a benchmark's result by its name, how it is written, and its aim if it has one."""

    figure: str
    form: Form = HUNDREDTHS
    aim: Aim | None = None


class Table(NamedTuple):
    """A table of figures. `source` says where they were measured; `is_text`: all columns are aligned to the left."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    source: str
    is_text: bool = False

    def markdown(self) -> str:
        others = len(self.header) - 1
        lines = [_line(self.header), "|---" + ("|---" if self.is_text else "|---:") * others + "|"]
        lines += [_line(row) for row in self.rows]
        marked = any(MISSED in cell for row in self.rows for cell in row)
        return "\n".join([*lines, "", self.source + (f" {MISSED}: misses its aim." if marked else "")])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


class Result:
    """The result of one benchmark, as `benchmarks.common.report.result` puts it together."""

    def __init__(self, name: str, content: dict[str, Any]) -> None:
        self.name = name
        self.figures: dict[str, float] = content["figures"]
        self.setup: dict[str, Any] = content["setup"]
        self.details: dict[str, Any] = content["details"]

    @property
    def source(self) -> str:
        """A sentence that names the file, the machine and the revision."""
        machine = f"{self.setup['cpu']}, {self.setup['cores']} cores"
        return f"From `benchmarks/results/{self.name}.json` ({machine}; revision {self.setup['revision']})."

    def cell(self, figure: str, form: Form) -> str:
        return text(self.figures.get(figure), form)

    def values(self, quantities: Iterable[Quantity]) -> str:
        return " / ".join(self.cell(one.figure, one.form) for one in quantities)

    def aims(self, quantities: Iterable[Quantity]) -> str:
        """Returns the aims of the quantities, one text where all are the same and all are met or missed."""
        texts = [one.aim.text(self.figures.get(one.figure), one.form) for one in quantities if one.aim is not None]
        return texts[0] if len(set(texts)) == 1 else " / ".join(texts)

    def intervals(self, quantities: Sequence[Quantity]) -> str:
        """Returns the 95 % intervals of the quantities; an empty string where the details hold none of them."""
        known = self.details.get("intervals_95", {})
        if not any(one.figure in known for one in quantities):
            return ""
        return " / ".join(interval(known.get(one.figure), one.form) for one in quantities)


class Results:
    """A folder of results, `<benchmark>.json` each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str) -> bool:
        return (self.folder / f"{name}.json").exists()

    def read(self, name: str) -> dict[str, Any]:
        """Returns the content of a result.

        Raises:
            InvalidInput: there is no such file, or it is not JSON.
        """
        path = self.folder / f"{name}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidInput(f"cannot read the result {path.name}: {error.strerror}") from error
        except ValueError as error:
            raise InvalidInput(f"the result {path.name} is not JSON: {error}") from error
        return dict(content)

    def of(self, benchmark: str) -> Result:
        """Returns the result of a benchmark.

        Raises:
            InvalidInput: it cannot be read, or is no benchmark's result.
        """
        content = self.read(benchmark)
        missing = [key for key in ("figures", "setup", "details") if key not in content]
        if missing:
            raise InvalidInput(f"the result {benchmark}.json has no {missing[0]!r}")
        return Result(benchmark, content)


def text(value: float | None, form: Form = HUNDREDTHS) -> str:
    return NOT_MEASURED if value is None else form.number(value) + form.unit


def interval(bounds: Sequence[float] | None, form: Form = HUNDREDTHS) -> str:
    return NOT_MEASURED if bounds is None else f"{form.number(bounds[0])} to {form.number(bounds[1])}{form.unit}"


def with_interval(value: float | None, bounds: Sequence[float] | None, form: Form = HUNDREDTHS) -> str:
    """Returns `1.05 (1.00 to 1.12)`, without the brackets where no interval is known."""
    return text(value, form) + (f" ({interval(bounds, form)})" if bounds is not None else "")
