"""Edits of the text that Ray renders. Each expects exactly one place, so that another Ray cannot open a hole
quietly."""

import re
from collections.abc import Callable


class TemplateChanged(Exception):
    """Raised when the configuration does not hold the text that an edit expects: Ray is not the version this was
    written for."""


def replace(config: str, pattern: str, replacement: "str | Callable[[re.Match[str]], str]", what: str) -> str:
    """Return `config` with its only match of `pattern` replaced.

    Raises:
        TemplateChanged: there is none, or more than one; the message names `what` was looked for.
    """
    config, count = re.subn(pattern, replacement, config)
    if count != 1:
        raise TemplateChanged(f"{what}: expected once, found {count} times ({pattern})")
    return config


def script_of(config: str) -> str | None:
    """Return the path of the router script that a configuration loads, None if it loads none."""
    match = re.search(r"(?m)^    lua-load-per-thread (\S+)$", config)
    return match[1] if match else None
