"""A specification in one file: safetensors, with a JSON description of the tensors in its header."""

import json
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors, save as save_safetensors

from specs.untrusted import load_json

LENGTH_BYTES = 8
"""Bytes of a safetensors file's first field, which holds the header's length."""
KEY = "specification"
"""Key of the description in the header's metadata."""


def dump(tensors: Mapping[str, NDArray[Any]], description: Mapping[str, Any]) -> bytes:
    """Returns the file's content for these tensors and this description; equal input gives equal bytes."""
    text = json.dumps(description, separators=(",", ":"))
    content: bytes = save_safetensors(dict(tensors), metadata={KEY: text})
    return content


def parse(content: bytes) -> tuple[dict[str, NDArray[Any]], Any]:
    """Returns the tensors and the description of a file's content, the latter unchecked; executes nothing.

    Raises:
        ValueError: the content is no such file.
    """
    try:
        tensors = load_safetensors(content)
        # The library shows a header's metadata for files only.
        header = content[LENGTH_BYTES : LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")]
        return tensors, load_json(load_json(header)["__metadata__"][KEY])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(repr(error)) from None
