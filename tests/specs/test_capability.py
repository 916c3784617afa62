"""Capabilities on disk: they come back as they were, and a wrong file is refused with the reason."""

import json
from pathlib import Path

import pytest

from specs.capability import CAPABILITY_FILE, Capability, ProbeScore, load_capability, save_capability
from specs.errors import InvalidSpecification

SCORE = ProbeScore(16, 0.75, 0.7, -0.4, 0.9375, 0.25, 0.3, -2.5)
CAPABILITY = Capability("base-model", "0" * 64, "protocol 1", {"finance-tfns": SCORE})


def changed(folder: Path, **changes: object) -> None:
    path = folder / CAPABILITY_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_capability_comes_back(tmp_path: Path) -> None:
    assert load_capability(tmp_path) is None
    save_capability(CAPABILITY, tmp_path / "specification")
    assert load_capability(tmp_path / "specification") == CAPABILITY


PROBE = json.loads(json.dumps(SCORE.__dict__))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 9}, "reads type 'capability', formats 1, 2"),
        ({"base_model": ""}, "base_model must be a non-empty string"),
        ({"probes": []}, "probes must be an object"),
        ({"probes": {"finance-tfns": {"rows": 3}}}, "must have exactly rows, accuracy"),
        ({"probes": {"../up": PROBE}}, "probe '../up' must be named <domain>-<task>"),
        ({"probes": {"a-b": PROBE | {"accuracy": 1.5}}}, "accuracy of probe 'a-b' must be from 0 to 1"),
        ({"probes": {"a-b": PROBE | {"log_likelihood": "low"}}}, "log_likelihood of probe 'a-b' must be a number"),
        ({"probes": {"a-b": PROBE | {"rows": 0}}}, "rows of probe 'a-b' must be a whole number from 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    save_capability(CAPABILITY, tmp_path)
    changed(tmp_path, **changes)
    with pytest.raises(InvalidSpecification, match=reason):
        load_capability(tmp_path)


def test_a_file_that_is_no_json_or_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / CAPABILITY_FILE).write_text("{")
    with pytest.raises(InvalidSpecification, match="not JSON"):
        load_capability(tmp_path)
    (tmp_path / CAPABILITY_FILE).write_text(" " * (2 << 20))
    with pytest.raises(InvalidSpecification, match="larger than 1 MiB"):
        load_capability(tmp_path)
