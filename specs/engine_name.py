"""Engine names: vLLM knows one version of a learnware as `<learnware id>@<first digits of its SHA-256>`.

The router, the engine replicas and the engine's own processes all name adapters so. A version has a name of its own,
so whatever vLLM keeps by name, such as its prefix cache, never mixes two versions. This module imports nothing, since
the engine's processes import it.
"""

_MARK = "@"  # no part of a learnware's id (`specs.card`), which may hold a slash: an engine name is never a path
_VERSION_DIGITS = 12


def engine_name(learnware_id: str, sha256: str) -> str:
    """Makes the engine name of the version of a learnware whose files have this SHA-256."""
    return f"{learnware_id}{_MARK}{sha256[:_VERSION_DIGITS]}"


def split_engine_name(name: str) -> tuple[str, str]:
    """Returns the learnware's id and the version's digits; a name without a version is an id with an empty version."""
    learnware_id, mark, version = name.rpartition(_MARK)
    return (learnware_id, version) if mark else (name, "")
