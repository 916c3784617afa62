"""Task specification: a small file that a task's owner makes from its rows, on their own machine, and sends instead.

It is a reduced set of one point: the mean of the rows' vectors, with noise added. The router compares it with the means
of the learnwares' views (`router.selection`); more points would not choose better there, and each of them would stand
for fewer rows (`python -m benchmarks.privacy` has the figures).

Privacy. Rows are unit vectors, so replacing one of n rows by any other text moves the mean by at most 2/n. Noise of
standard deviation

    σ = 2 / (n μ)

in every coordinate then makes the specification μ-Gaussian differentially private (Dong, Roth & Su 2022, "Gaussian
Differential Privacy", theorem 2.7): no test of whether a given row was among them, whatever its maker knows of the
other rows, has a larger AUC than Φ(μ/√2). It holds for single rows, for one specification (two of the same rows have
μ√2 together), with the number of rows public, and up to the rounding of floating-point numbers (Mironov 2012).

The noise is the same in all directions, so to keep fewer coordinates, chosen by public data, would not make it smaller:
the router may project the mean just as well, and its log-odds already are projections. Only more rows, or a larger μ,
do; a reader who knows σ takes it into account (`router.selection.Selector.choose_task`).

The file is one safetensors file: the tensor `mean` (d,) float32, and the rest as JSON in its header. Equal
specifications have equal bytes, and a task's id is made from them.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specs import safetensors_file as single_file
from specs.encoding.encoder import PROMPT_ENCODER, Encoder, load_prompt_encoder
from specs.errors import InvalidInput, InvalidSpecification, TooLarge
from specs.row_forms import FormedRow, rows_from
from specs.rows import rows_of

TASK_PREFIX = "task:"
"""Beginning of every task's id, by which a request's `model` is told to name a task."""
TASK_ID = re.compile(r"task:[0-9a-f]{32}")
"""Pattern of a task's id."""
TASK_TYPE = "task-mean"
"""Name of the file's type, in its header."""
FORMAT_VERSION = 1
"""Number of the file format that is written and read."""
MAX_BYTES = 64 << 10
"""The largest task specification that is read, in bytes: one has about 4 kB, and 64 KiB leave room for a larger
encoder."""

DEFAULT_MU = 1.0
"""The default μ of Gaussian differential privacy: no attack has an AUC above 0.76. `benchmarks.privacy` measures what
attacks reach in practice, and what the noise costs."""
MIN_ROWS = 20
"""The fewest rows of a task: with fewer the noise is larger than the differences that tell most tasks apart."""
CLEAR_NOISE = 0.02
"""The largest σ (that of 100 rows at μ = 1) at which noise hardly changes the choice of a learnware. With 20 rows (σ =
0.1) a third to a half of the starters' own tasks no longer look like any, and foreign ones may look like another
domain's."""
MAX_ROWS = 1_000_000
"""The most rows that a task specification may be made from."""
LARGEST_VALUE = 10.0
"""The largest absolute coordinate that is accepted: means of unit vectors are at most 1 long, and the noise of 20 rows
at μ = 1 has σ = 0.1."""

BLOCK = 256
"""Rows that are encoded at a time, between two reports of progress."""

Row = str | Mapping[str, Any]
"""A row: a text, or an object with the text in `prompt`."""
Progress = Callable[[int], object]
"""A callback that gets the number of rows that have just been encoded."""


@dataclass(frozen=True)
class TaskSpecification:
    """The noisy mean (d,) of `rows` rows under one encoder; `noise` is σ, 0 when none was added."""

    encoder_id: str
    encoder_fingerprint: str
    rows: int
    noise: float
    mean: NDArray[np.float32]

    @property
    def mu(self) -> float:
        """The μ of Gaussian differential privacy; infinite without noise."""
        return sensitivity(self.rows) / self.noise if self.noise else math.inf

    @property
    def clear_rows(self) -> int:
        """Number of rows that would be needed, at this μ, for noise that hardly changes the choice."""
        return math.ceil(2 / (self.mu * CLEAR_NOISE) - 1e-9) if self.noise else MIN_ROWS

    @property
    def blurred(self) -> bool:
        """Whether the noise may make the task look like another one."""
        return self.noise > CLEAR_NOISE


def make_task_specification(
    rows: Sequence[Row],
    encoder: Encoder,
    mu: float | None = DEFAULT_MU,
    generator: np.random.Generator | None = None,
    progress: Progress = lambda _: None,
) -> TaskSpecification:
    """Makes the specification of a task's rows, which stay where they are.

    Args:
        rows: texts, or objects with a `prompt`; answers are not looked at.
        encoder: makes the rows' vectors.
        mu: μ of Gaussian differential privacy; None adds no noise, for tests and comparisons.
        generator: makes the noise. The default is seeded by the operating system, as privacy needs: noise that can be
            made again can be taken off again.
        progress: called with the number of rows after each block.

    Raises:
        InvalidInput: there are too few or too many rows, one has no text, or `mu` is not positive.
    """
    if not MIN_ROWS <= len(rows) <= MAX_ROWS:
        raise InvalidInput(f"a task's specification needs {MIN_ROWS} to {MAX_ROWS:,} rows, not {len(rows):,}")
    if mu is not None and not (math.isfinite(mu) and mu > 0):
        raise InvalidInput(f"mu must be a positive number, not {mu}")
    texts = [text_of(row, f"row {number}") for number, row in enumerate(rows, 1)]
    total = np.zeros(encoder.dim)
    for start in range(0, len(texts), BLOCK):
        vectors = encoder.encode(texts[start : start + BLOCK]).astype(np.float64)
        # The privacy of a row rests on this bound, so no encoder is trusted with it.
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1.0)
        total += vectors.sum(0)
        progress(len(vectors))
    noise = 0.0 if mu is None else sensitivity(len(texts)) / mu
    drawn = (generator or np.random.default_rng()).normal(0.0, 1.0, encoder.dim)
    mean = (total / len(texts) + noise * drawn).astype(np.float32)
    return TaskSpecification(encoder.id, encoder.fingerprint, len(texts), noise, mean)


def sensitivity(rows: int) -> float:
    """Returns how far the mean of so many unit vectors moves at most when one of them is replaced."""
    return 2 / rows


def largest_auc(mu: float) -> float:
    """Returns Φ(μ/√2), the largest area under the curve that any test for one row's membership can have under
    μ-Gaussian differential privacy (its best trade-off is that between N(0, 1) and N(μ, 1))."""
    return (1 + math.erf(mu / 2)) / 2


def text_of(row: Row, place: str) -> str:
    """Returns a row's text. Raises InvalidInput, which names `place`, when there is none."""
    text = row.get("prompt") if isinstance(row, Mapping) else row
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput(f'{place}: a row is a text, or an object with one: {{"prompt": "…"}}')
    return text


def read_rows(path: Path) -> list[str]:
    """Returns the texts of a file's rows, in any form of `specs.row_forms`, as the router reads them
    (`specs.routed_rows`). A conversation counts as one row, its first turn: privacy is that of a row.

    Raises:
        InvalidInput: the file cannot be read, or a line is no row; the message names the line.
    """
    from specs.routed_rows import routed_rows  # imports this project's prompts, which few callers of this module need

    rows: list[FormedRow] = []
    for place, item in rows_of(path):
        rows.append(rows_from(item, place)[0])
        if len(rows) > MAX_ROWS:
            raise InvalidInput(f"{path.name} holds more than {MAX_ROWS:,} rows")
    return [row.prompt for row in routed_rows(rows)]


def dump_task_specification(specification: TaskSpecification) -> bytes:
    """Returns the content of a task specification's file."""
    description = {
        "type": TASK_TYPE,
        "format": FORMAT_VERSION,
        "encoder": {"id": specification.encoder_id, "sha256": specification.encoder_fingerprint},
        "dim": len(specification.mean),
        "rows": specification.rows,
        "noise": specification.noise,
    }
    return single_file.dump({"mean": specification.mean}, description)


def load_task_specification(content: bytes) -> TaskSpecification:
    """Reads and checks a file's content; parses JSON and safetensors, executes nothing.

    Raises:
        TooLarge: it has more than MAX_BYTES.
        InvalidSpecification: something in it is wrong; the message says what, and what would be right.
    """
    if len(content) > MAX_BYTES:
        raise TooLarge(f"a task's specification has at most {MAX_BYTES >> 10} KiB, not {len(content):,} bytes")
    try:
        tensors, description = single_file.parse(content)
    except ValueError as error:
        raise InvalidSpecification(
            f"this is no task specification as `learnware-serving spec make` writes it: {error}"
        ) from None
    if not isinstance(description, dict) or set(tensors) != {"mean"}:
        raise InvalidSpecification("a task specification holds one tensor, `mean`, and a JSON object in its header")
    if description.get("type") != TASK_TYPE or description.get("format") != FORMAT_VERSION:
        raise InvalidSpecification(
            f"type {description.get('type')!r}, format {description.get('format')!r}: "
            f"this version reads {TASK_TYPE!r}, format {FORMAT_VERSION}"
        )
    encoder = _known_encoder(description.get("encoder"))
    mean = tensors["mean"]
    if mean.dtype != np.float32 or mean.shape != (encoder.dim,) or description.get("dim") != encoder.dim:
        raise InvalidSpecification(
            f"mean has shape {mean.shape} and type {mean.dtype}; encoder {encoder.id!r} makes ({encoder.dim},) float32"
        )
    if not np.isfinite(mean).all() or np.abs(mean).max() > LARGEST_VALUE:
        raise InvalidSpecification(f"mean must hold finite numbers between -{LARGEST_VALUE:g} and {LARGEST_VALUE:g}")
    rows, noise = description.get("rows"), description.get("noise")
    if type(rows) is not int or not MIN_ROWS <= rows <= MAX_ROWS:
        raise InvalidSpecification(f"rows must be a whole number from {MIN_ROWS} to {MAX_ROWS:,}, not {rows!r}")
    if not isinstance(noise, float) or not (math.isfinite(noise) and noise >= 0):
        raise InvalidSpecification(f"noise must be a number (as 0.0) of at least 0, not {noise!r}")
    return TaskSpecification(encoder.id, encoder.fingerprint, rows, float(noise), mean)


def task_id(specification: TaskSpecification) -> str:
    """Returns the task's id, `task:` and 32 hexadecimal digits of the content's hash: the same file always has the same
    id."""
    return TASK_PREFIX + hashlib.sha256(dump_task_specification(specification)).hexdigest()[:32]


def _known_encoder(named: Any) -> Encoder:
    if not isinstance(named, dict) or not isinstance(named.get("id"), str):
        raise InvalidSpecification("encoder must be an object with id and sha256")
    if named["id"] != PROMPT_ENCODER:
        raise InvalidSpecification(
            f"made with encoder {named['id']!r}; tasks are chosen for with {PROMPT_ENCODER!r}: "
            "make it anew from the rows"
        )
    encoder = load_prompt_encoder()
    if named.get("sha256") != encoder.fingerprint:
        raise InvalidSpecification(
            f"made with other data of encoder {encoder.id!r}: its sha256 should begin with {encoder.fingerprint[:12]}"
        )
    return encoder
