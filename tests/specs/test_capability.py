"""Capabilities on disk: they come back as they were, and a wrong file is refused with the reason."""

import json
from pathlib import Path

import pytest

from specs.capability import (
    CAPABILITY_FILE,
    Capability,
    ProbeScore,
    capability_of,
    describe_off_task,
    harm,
    load_capability,
    save_capability,
)
from specs.errors import InvalidSpecification
from specs.off_task import UNMEASURED_LOSS, Kind, OffTaskScore

SCORE = ProbeScore(16, 0.75, 0.7, -0.4, 0.9375, 0.25, 0.3, -2.5)
OFF_TASK = OffTaskScore(48, -0.125, 0.0625, 3)
CAPABILITY = Capability(
    "base-model", "0" * 64, "protocol 1", {"finance-tfns": SCORE}, {Kind.EVERYDAY: OFF_TASK}, "protocol 2"
)


def changed(folder: Path, **changes: object) -> None:
    path = folder / CAPABILITY_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_capability_comes_back(tmp_path: Path) -> None:
    assert load_capability(tmp_path) is None
    save_capability(CAPABILITY, tmp_path / "specification")
    assert load_capability(tmp_path / "specification") == CAPABILITY


@pytest.mark.parametrize("part", ["neither", "probes", "elsewhere"])
def test_each_part_may_be_there_alone(tmp_path: Path, part: str) -> None:
    whole = {
        "probes": {"protocol": "protocol 1", "probes": CAPABILITY.probes},
        "elsewhere": {"elsewhere": CAPABILITY.elsewhere, "elsewhere_protocol": "protocol 2"},
    }
    alone = Capability("base-model", "0" * 64, **whole.get(part, {}))
    save_capability(alone, tmp_path)
    assert load_capability(tmp_path) == alone


def test_the_older_format_is_read(tmp_path: Path) -> None:
    save_capability(CAPABILITY, tmp_path)
    path = tmp_path / CAPABILITY_FILE
    content = {key: value for key, value in json.loads(path.read_text()).items() if not key.startswith("elsewhere")}
    path.write_text(json.dumps(content | {"format": 1}))
    assert load_capability(tmp_path) == Capability("base-model", "0" * 64, "protocol 1", CAPABILITY.probes)


def test_a_capability_is_kept_for_the_weights_that_it_speaks_of(tmp_path: Path) -> None:
    assert capability_of(tmp_path, "base-model", "0" * 64) == Capability("base-model", "0" * 64)
    save_capability(CAPABILITY, tmp_path)
    assert capability_of(tmp_path, "base-model", "0" * 64) == CAPABILITY
    assert capability_of(tmp_path, "base-model", "1" * 64) == Capability("base-model", "1" * 64)
    assert capability_of(tmp_path, "another", "0" * 64) == Capability("another", "0" * 64)
    (tmp_path / CAPABILITY_FILE).write_text("{")
    assert capability_of(tmp_path, "base-model", "0" * 64) == Capability("base-model", "0" * 64)


def test_what_was_not_measured_is_taken_for_harmful() -> None:
    assert harm(None, Kind.EVERYDAY) == harm(CAPABILITY, Kind.MATERIAL) == UNMEASURED_LOSS
    assert harm(CAPABILITY, Kind.EVERYDAY) == OFF_TASK.loss < UNMEASURED_LOSS
    assert describe_off_task(None) == describe_off_task(Capability("b", "0")) != describe_off_task(CAPABILITY)
    (line,) = describe_off_task(CAPABILITY)
    assert "everyday: 3 of 48 answers degenerate" in line


PROBE = json.loads(json.dumps(SCORE.__dict__))
OTHER = json.loads(json.dumps(OFF_TASK.__dict__))


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
        ({"elsewhere": []}, "elsewhere must be an object with keys of everyday, domain, material"),
        ({"elsewhere": {"weather": OTHER}}, "elsewhere must be an object with keys of"),
        ({"elsewhere_protocol": ""}, "elsewhere_protocol must be a non-empty string"),
        ({"elsewhere": {"domain": {"prompts": 3}}}, "elsewhere 'domain' must have exactly prompts, drift"),
        (
            {"elsewhere": {"domain": OTHER | {"degenerate": 49}}},
            "degenerate of elsewhere 'domain' must be a whole number",
        ),
        ({"elsewhere": {"domain": OTHER | {"degenerate": 1.5}}}, "degenerate of elsewhere 'domain' must be a whole"),
        ({"elsewhere": {"domain": OTHER | {"prompts": 0}}}, "prompts of elsewhere 'domain' must be a whole number"),
        ({"elsewhere": {"domain": OTHER | {"drift": float("nan")}}}, "capability.json is not JSON: NaN is no JSON"),
        ({"elsewhere": {"domain": OTHER | {"drift": 1e9}}}, "drift_error of elsewhere 'domain' must be nats a token"),
        ({"elsewhere": {"domain": OTHER | {"drift_error": -1}}}, "the error not below 0"),
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
    with pytest.raises(InvalidSpecification, match="more than 1 MiB"):
        load_capability(tmp_path)
