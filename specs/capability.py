"""Capability: what a learnware was measured to answer, on probe rows of some tasks, beside its base model.

Similarity is not quality: of two learnwares whose prompts look alike one may be useless. A capability says how good
each is where it was measured; the router (`router.ranking`) weighs those measurements by how much a request looks like
each task. (The idea of EmbedLLM, Zhuang et al. 2025, and of LoRAuter, arXiv 2601.21795.)

On disk: `specification/capability.json`, beside the reduced sets. It names the adapter by its hash, so that it never
speaks for other weights.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from specs.errors import InvalidSpecification

CAPABILITY_FILE = "capability.json"
CAPABILITY = "capability"
FORMAT_VERSION = 1
MAX_BYTES = 1 << 20
MAX_PROBES = 4096
TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class ProbeScore:
    """Means over the probe rows of one task. `probability` is the gold answer's among those to choose from (or its
    likelihood, where any answer may be given), `log_likelihood` in nats; `at_least_base` is the share of rows that it
    answers at least as well as the base model. Where the answers are sentences, none is right (accuracy 0), likelihood
    and probability are means a token of the gold answer, and it is at least as good where the gold answer is at least
    as likely."""

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
    """Scores by task, named <domain>-<task>. `protocol` says how they were measured."""

    base_model: str
    adapter_sha256: str
    protocol: str
    probes: Mapping[str, ProbeScore]


def save_capability(capability: Capability, folder: Path) -> None:
    """Writes the file into `folder`, which is made if absent."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"type": CAPABILITY, "format": FORMAT_VERSION, **asdict(capability)}
    rounded = {
        task: {key: round(value, 4) for key, value in asdict(score).items()}
        for task, score in sorted(capability.probes.items())
    }
    (folder / CAPABILITY_FILE).write_text(json.dumps(content | {"probes": rounded}, indent=1) + "\n", encoding="utf-8")


def load_capability(folder: Path) -> Capability | None:
    """The capability in a specification's folder, None when there is none.

    Raises:
        InvalidSpecification: what is wrong with it.
    """
    path = folder / CAPABILITY_FILE
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidSpecification(f"{CAPABILITY_FILE} is larger than {MAX_BYTES >> 20} MiB")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidSpecification(f"{CAPABILITY_FILE} is not JSON: {error}") from None
    if not isinstance(content, dict) or (content.get("type"), content.get("format")) != (CAPABILITY, FORMAT_VERSION):
        raise InvalidSpecification(
            f"{CAPABILITY_FILE}: this version reads type {CAPABILITY!r}, format {FORMAT_VERSION}"
        )
    texts = {name: content.get(name) for name in ("base_model", "adapter_sha256", "protocol")}
    probes = content.get("probes")
    wrong = [name for name, value in texts.items() if not isinstance(value, str) or not value]
    if wrong or not isinstance(probes, dict) or len(probes) > MAX_PROBES:
        raise InvalidSpecification(
            f"{CAPABILITY_FILE}: {', '.join(wrong) or 'probes'} must be "
            + ("a non-empty string" if wrong else f"an object of at most {MAX_PROBES} tasks")
        )
    return Capability(
        **{name: str(value) for name, value in texts.items()}, probes={t: _score(t, v) for t, v in probes.items()}
    )


def _score(task: str, values: object) -> ProbeScore:
    names = tuple(ProbeScore.__dataclass_fields__)
    if not TASK.fullmatch(task) or not isinstance(values, dict) or set(values) != set(names):
        raise InvalidSpecification(f"{CAPABILITY_FILE}: probe {task!r} must have exactly {', '.join(names)}")
    numbers: dict[str, float] = {}
    for name in names:
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InvalidSpecification(f"{CAPABILITY_FILE}: {name} of probe {task!r} must be a number, not {value!r}")
        if "likelihood" not in name and name != "rows" and not 0 <= value <= 1:
            raise InvalidSpecification(
                f"{CAPABILITY_FILE}: {name} of probe {task!r} must be from 0 to 1, not {value!r}"
            )
        numbers[name] = float(value)
    if numbers["rows"] < 1 or not isinstance(values["rows"], int):
        raise InvalidSpecification(f"{CAPABILITY_FILE}: rows of probe {task!r} must be a positive integer")
    return ProbeScore(**(numbers | {"rows": values["rows"]}))  # type: ignore[arg-type]  # the one whole number
