"""Capability: a learnware's measured scores on probe rows of some tasks, beside its base model's, and its measured
effect on off-task requests (`specs.off_task`).

Similarity is not quality: of two learnwares whose prompts look alike one may be useless. A capability says how good
each is where it was measured; the router (`router.ranking`) weighs those measurements by how much a request looks like
each task. (The idea of EmbedLLM, Zhuang et al. 2025, and of LoRAuter, arXiv 2601.21795.)

On disk: `specification/capability.json`, beside the reduced sets. It names the adapter by its hash, so that it never
speaks for other weights. Format 1, which has no off-task scores, is still read.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from specs.base_names import same_name
from specs.errors import InvalidSpecification
from specs.off_task import UNMEASURED_LOSS, Kind, OffTaskScore, Z
from specs.untrusted import read_json

CAPABILITY_FILE = "capability.json"
"""File name of a capability in a specification's folder."""
CAPABILITY = "capability"
"""Name of this type of specification, in the file and in `specs.specification_types`."""
FORMAT_VERSION = 2
"""Number of the file format that is written."""
OLDER_FORMATS = (1,)
"""Numbers of older file formats that are still read."""
MAX_BYTES = 1 << 20
"""The largest capability file that is read, in bytes; 1 MiB holds about `MAX_PROBES` tasks."""
MAX_PROBES = 4096
"""The most tasks that one capability may name."""
MAX_PROMPTS = 1_000_000
"""The largest count of rows or prompts that a file may state; a larger one is a fault."""
LARGEST_DRIFT = 1000.0
"""The largest drift in nats a token that is accepted: far more than any model's logits come to, so a number beyond it
is a fault."""
TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
"""Pattern of a task's name, <domain>-<task>."""


@dataclass(frozen=True)
class ProbeScore:
    """Mean scores over the probe rows of one task, the learnware's and its base model's.

    `probability` is the gold answer's among those to choose from (or its likelihood, where any answer may be given),
    `log_likelihood` the gold answer's in nats. `at_least_base` is the share of rows that the learnware answers at least
    as well as the base model. Where the answers are sentences, no answer counts as right (accuracy 0), likelihood and
    probability are means over the gold answer's tokens, and a row is answered at least as well where the gold answer is
    at least as likely.
    """

    rows: int
    accuracy: float
    probability: float
    log_likelihood: float
    at_least_base: float
    base_accuracy: float
    base_probability: float
    base_log_likelihood: float


@dataclass(frozen=True)
class Capability:
    """Scores by task, named <domain>-<task>, and off-task scores by kind of request in `elsewhere`. `protocol` and
    `elsewhere_protocol` say how the two parts were measured; the protocol of a part that was not measured is empty."""

    base_model: str
    adapter_sha256: str
    protocol: str = ""
    probes: Mapping[str, ProbeScore] = field(default_factory=dict)
    elsewhere: Mapping[Kind, OffTaskScore] = field(default_factory=dict)
    elsewhere_protocol: str = ""


def harm(capability: Capability | None, kind: Kind) -> float:
    """Returns the expected loss against the base model, in probability (0 to 1), of giving a learnware an off-task
    request of this kind. It is `UNMEASURED_LOSS` where the kind was not measured, whatever other kinds say: a learnware
    that leaves everyday prompts alone may still label every text that looks like its own."""
    found = None if capability is None else capability.elsewhere.get(kind)
    return UNMEASURED_LOSS if found is None else found.loss


def describe_off_task(capability: Capability | None) -> list[str]:
    """Describes the measured effect on off-task requests, a line for each kind; a single line where nothing was
    measured."""
    if capability is None or not capability.elsewhere:
        return [f"not measured off its task: taken to lose {UNMEASURED_LOSS:.2f} there"]
    return [
        f"{kind}: {score.degenerate} of {score.prompts} answers degenerate "
        f"({score.degenerate_share.low:.0%} to {score.degenerate_share.high:.0%}), "
        f"drift {score.drift:.2f} ± {Z * score.drift_error:.2f} nats a token, loss {score.loss:.2f}"
        for kind, score in sorted(capability.elsewhere.items())
    ]


def save_capability(capability: Capability, folder: Path) -> None:
    """Writes the file into `folder`, which is made if absent."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"type": CAPABILITY, "format": FORMAT_VERSION, **asdict(capability)} | {
        "probes": {task: _rounded(score) for task, score in sorted(capability.probes.items())},
        "elsewhere": {str(kind): _rounded(score) for kind, score in sorted(capability.elsewhere.items())},
    }
    (folder / CAPABILITY_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _rounded(score: ProbeScore | OffTaskScore) -> dict[str, float]:
    return {key: round(value, 4) for key, value in asdict(score).items()}


def load_capability(folder: Path) -> Capability | None:
    """Returns the capability in a specification's folder, or None when there is none.

    Raises:
        InvalidSpecification: the file is damaged or too large, has an unknown format, or a field of it is wrong.
    """
    path = folder / CAPABILITY_FILE
    try:
        content = read_json(path, MAX_BYTES)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidSpecification(f"{CAPABILITY_FILE} is not JSON: {error}") from None
    formats = (FORMAT_VERSION, *OLDER_FORMATS)
    if not isinstance(content, dict) or content.get("type") != CAPABILITY or content.get("format") not in formats:
        raise InvalidSpecification(
            f"{CAPABILITY_FILE}: this version reads type {CAPABILITY!r}, formats {', '.join(map(str, sorted(formats)))}"
        )
    if content["format"] in OLDER_FORMATS:
        content = content | {"elsewhere": {}, "elsewhere_protocol": ""}
    probes, elsewhere = content.get("probes"), content.get("elsewhere")
    if not isinstance(probes, dict) or len(probes) > MAX_PROBES:
        raise InvalidSpecification(f"{CAPABILITY_FILE}: probes must be an object of at most {MAX_PROBES} tasks")
    if not isinstance(elsewhere, dict) or not set(elsewhere) <= set(Kind):
        raise InvalidSpecification(f"{CAPABILITY_FILE}: elsewhere must be an object with keys of {', '.join(Kind)}")
    texts = {name: content.get(name) for name in ("base_model", "adapter_sha256", "protocol", "elsewhere_protocol")}
    needed = {"protocol": bool(probes) or content["format"] in OLDER_FORMATS, "elsewhere_protocol": bool(elsewhere)}
    wrong = [
        name for name, value in texts.items() if not isinstance(value, str) or (not value and needed.get(name, True))
    ]
    if wrong:
        raise InvalidSpecification(f"{CAPABILITY_FILE}: {', '.join(wrong)} must be a non-empty string")
    return Capability(
        **{name: str(value) for name, value in texts.items()},
        probes={task: _score(task, values) for task, values in probes.items()},
        elsewhere={Kind(kind): _off_task_score(kind, values) for kind, values in elsewhere.items()},
    )


def capability_of(folder: Path, base_model: str, adapter_sha256: str) -> Capability:
    """Returns the capability in a specification's folder if it belongs to these very weights. Otherwise, or if the file
    cannot be read, returns an empty capability: a new measurement then takes its place."""
    try:
        found = load_capability(folder)
    except InvalidSpecification:
        found = None
    if found is None or found.adapter_sha256 != adapter_sha256 or not same_name(found.base_model, base_model):
        return Capability(base_model, adapter_sha256)
    return replace(found, base_model=base_model)


def _score(task: str, values: object) -> ProbeScore:
    if not TASK.fullmatch(task):
        raise InvalidSpecification(f"{CAPABILITY_FILE}: probe {task!r} must be named <domain>-<task>")
    numbers = _numbers(f"probe {task!r}", values, [each.name for each in fields(ProbeScore)])
    for name, value in numbers.items():
        if "likelihood" not in name and name != "rows" and not 0 <= value <= 1:
            raise InvalidSpecification(
                f"{CAPABILITY_FILE}: {name} of probe {task!r} must be from 0 to 1, not {value!r}"
            )
    rows = _count(f"rows of probe {task!r}", numbers["rows"], 1, MAX_PROMPTS)
    return ProbeScore(**(numbers | {"rows": rows}))  # type: ignore[arg-type]  # the one whole number


def _off_task_score(kind: str, values: object) -> OffTaskScore:
    place = f"elsewhere {kind!r}"
    numbers = _numbers(place, values, [each.name for each in fields(OffTaskScore)])
    prompts = _count(f"prompts of {place}", numbers["prompts"], 1, MAX_PROMPTS)
    degenerate = _count(f"degenerate of {place}", numbers["degenerate"], 0, prompts)
    drift, error = numbers["drift"], numbers["drift_error"]
    if abs(drift) > LARGEST_DRIFT or not 0 <= error <= LARGEST_DRIFT:
        raise InvalidSpecification(
            f"{CAPABILITY_FILE}: drift and drift_error of {place} must be nats a token, the error not below 0; "
            f"not {drift!r} and {error!r}"
        )
    return OffTaskScore(prompts, float(drift), float(error), degenerate)


def _numbers(place: str, values: object, names: list[str]) -> dict[str, float]:
    """Returns exactly the named numbers, integers left as they are. Raises InvalidSpecification for any other
    object."""
    if not isinstance(values, dict) or set(values) != set(names):
        raise InvalidSpecification(f"{CAPABILITY_FILE}: {place} must have exactly {', '.join(names)}")
    for name in names:
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InvalidSpecification(f"{CAPABILITY_FILE}: {name} of {place} must be a number, not {value!r}")
    return {name: values[name] for name in names}


def _count(what: str, value: float, least: int, most: int) -> int:
    if not isinstance(value, int) or not least <= value <= most:
        raise InvalidSpecification(f"{CAPABILITY_FILE}: {what} must be a whole number from {least} to {most}")
    return value
