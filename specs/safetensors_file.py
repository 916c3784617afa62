"""A specification in one file: safetensors, with what describes the tensors as JSON in the header."""

import json
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors, save as save_safetensors

LENGTH_BYTES = 8
"""Of a safetensors file's first field, the header's length."""
KEY = "specification"


def dump(tensors: Mapping[str, NDArray[Any]], description: Mapping[str, Any]) -> bytes:
    """The file's content."""
    text = json.dumps(description, separators=(",", ":"))
    content: bytes = save_safetensors(dict(tensors), metadata={KEY: text})
    return content


def parse(content: bytes) -> tuple[dict[str, NDArray[Any]], Any]:
    """The tensors, and the description as it stands there; executes nothing.

    Raises:
        ValueError: it is no such file.
    """
    try:
        tensors = load_safetensors(content)
        # The library shows a header's metadata for files only.
        header = content[LENGTH_BYTES : LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")]
        return tensors, json.loads(json.loads(header)["__metadata__"][KEY])
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(repr(error)) from None
