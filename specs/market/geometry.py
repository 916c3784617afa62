"""Bounds a submission's weights by the base model's geometry, from names and shapes alone, before a value is read."""

from pathlib import Path

from specs.adapter_config import MAX_RANK
from specs.adapter_tensors import PREFIX, WEIGHTS_FILE, Tensor, read_header
from specs.errors import InvalidLearnware
from specs.market.checks import Requirements
from specs.safetensors_header import ELEMENT_BYTES

WIDEST_BYTES = 8
"""Bytes of the widest number that an adapter may be saved in (float64)."""


def check_geometry(folder: Path, requirements: Requirements) -> None:
    """Checks that no tensor of the adapter in `folder` is larger than one for this base model can be, in any layer and
    at any rank that exists. Whether each one fits its own layer is said later, by checks that know more of it.

    Raises:
        InvalidLearnware: a tensor is larger, or there is no readable header.
    """
    layers = requirements.layers
    if not layers:
        return
    try:
        header = read_header(folder)
    except InvalidLearnware as error:
        raise InvalidLearnware(f"learnware {folder.name}: {error}") from None
    widest = max(max(shape) for shape in layers.values())
    largest = max(rows * columns for rows, columns in layers.values())
    halves = [half for pair in header.pairs.values() for half in pair]
    _check(folder, halves, widest * MAX_RANK * WIDEST_BYTES)
    _check(folder, [copy for copies in header.whole.values() for copy in copies], largest * WIDEST_BYTES)


def _check(folder: Path, tensors: list[Tensor], most: int) -> None:
    for tensor in tensors:
        size = ELEMENT_BYTES[tensor.dtype]
        for length in tensor.shape:
            size *= length
        if size > most:
            raise InvalidLearnware(
                f"learnware {folder.name}: {WEIGHTS_FILE}: {tensor.name.removeprefix(PREFIX)} has {size} bytes; no "
                f"adapter of this base model needs more than {most} for a tensor"
            )
