"""Runs the scenarios: `python -m benchmarks.chaos`.

Each scenario does to a running stack what strangers, bad disks and dying processes do, and counts what others notice.
The stack has two replicas and small batches, and is started here, with API keys unless `--no-keys` says otherwise; with
`--url` it is one that runs already. A finished scenario is kept in `--out` and not run again, so that a run which was
cut goes on where it was. Load goes to loopback only, and is bounded in count and time.

The aims stand in `benchmarks.tables.chaos_table`; the exit status is 1 if one of them is missed.
"""

import argparse
import json
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.chaos import cancelled, disk, door, kills, malformed, overload, soak, tenants
from benchmarks.chaos.figures import Findings
from benchmarks.chaos.target import FIRST, SECOND, Setting, Target, own_limit, running, wait_until_whole
from benchmarks.common.report import add_output_options, result, setup, table, write_result
from benchmarks.common.servers import ServerError
from benchmarks.common.statistics import Interval
from benchmarks.tables.cells import with_interval
from benchmarks.tables.chaos_table import SCENARIOS as AIMS

WHOLE_S = 240.0
"""Seconds in which a stack must have all its replicas again before the next scenario."""


class Scenario(NamedTuple):
    """A scenario by name: how it is run, and on what stack; None: it starts its own."""

    name: str
    run: Callable[..., Findings]
    setting: Setting | None = Setting()
    ends_stack: bool = False


KILLS_LIMITS = (("max_waiting", 128), ("max_wait_s", 300))
"""Section `limits` of the stack for kills: one replica takes all that waits while the other is replaced."""

SCENARIOS: Sequence[Scenario] = (
    Scenario(malformed.NAME, malformed.run),
    Scenario(cancelled.NAME, cancelled.run),
    Scenario(door.NAME, door.run),
    Scenario(overload.NAME, overload.run),
    Scenario(tenants.NAME, tenants.run),
    Scenario(soak.NAME, soak.run, ends_stack=True),
    Scenario(kills.NAME, kills.run, Setting(limits=KILLS_LIMITS)),
    Scenario(disk.NAME, disk.drive, None),
)


class Kept:
    """Findings by scenario in one folder; those that are there are not made again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> Findings | None:
        path = self._folder / f"{name}.json"
        if not path.exists():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        intervals = {key: (low, high) for key, (low, high) in content["intervals"].items()}
        return Findings(content["figures"], intervals, content["faults"], content["details"])

    def write(self, name: str, findings: Findings) -> None:
        temporary = self._folder / f".{name}.json"
        temporary.write_text(json.dumps(findings._asdict()), encoding="utf-8")
        temporary.replace(self._folder / f"{name}.json")


class Stacks:
    """Gives each scenario its stack: one that runs stays for the next scenario that asks for the same."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self._options, self._scratch = options, scratch
        self._running: Any = None
        self._setting: Setting | None = None
        self._target: Target | None = None

    def target(self, setting: Setting) -> Target:
        """Returns a whole stack of this setting.

        Raises:
            ServerError: it did not start, or one that is given has not all its replicas.
        """
        if self._options.url:
            given = given_target(self._options)
            if wait_until_whole(given, WHOLE_S) is None:
                raise ServerError(f"{given.url} does not answer, or has fewer than {given.replicas} replicas")
            return given
        if (
            self._target is not None
            and self._setting == setting
            and wait_until_whole(self._target, WHOLE_S) is not None
        ):
            return self._target
        self.stop()
        print("starting a stack …", flush=True)
        self._running = running(setting, self._scratch, with_keys=self._options.keys, logs=self._options.logs)
        self._target, _ = self._running.__enter__()
        self._setting = setting
        target: Target = self._target
        return target

    def stop(self) -> None:
        if self._running is not None:
            self._running.__exit__(None, None, None)
        self._running = self._target = None


def given_target(options: argparse.Namespace) -> Target:
    """Returns the stack that the options name."""
    keys = dict(zip((FIRST, SECOND), options.key, strict=False)) if options.key else {}
    if len(keys) == 1:
        keys[SECOND] = keys[FIRST]
    return Target(options.url.rstrip("/"), keys, options.admin_key, options.pid, options.replicas, options.log_port)


@contextmanager
def stacks(options: argparse.Namespace) -> Iterator[Stacks]:
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        made = Stacks(options, Path(scratch))
        try:
            yield made
        finally:
            made.stop()


def run(options: argparse.Namespace, kept: Kept) -> dict[str, Findings]:
    """Runs the scenarios that are not kept yet, and returns the findings of all that were asked for."""
    found: dict[str, Findings] = {}
    with stacks(options) as made:
        for scenario in SCENARIOS:
            if scenario.name not in options.scenario:
                continue
            findings = kept.read(scenario.name)
            if findings is None:
                print(f"{scenario.name} …", flush=True)
                findings = _run(scenario, options, made)
                kept.write(scenario.name, findings)
            found[scenario.name] = findings
            for fault in findings.faults[:10]:
                print(f"  fault: {fault}", flush=True)
    return found


def _run(scenario: Scenario, options: argparse.Namespace, made: Stacks) -> Findings:
    if scenario.setting is None:
        made.stop()  # two stacks would share the machine
        with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
            return scenario.run(Path(scratch), with_keys=options.keys, logs=options.logs)
    findings = scenario.run(made.target(scenario.setting), short=options.short)
    if scenario.ends_stack:
        made.stop()
    return findings


def summarise(
    found: Mapping[str, Findings],
) -> tuple[dict[str, float], dict[str, Interval], dict[str, Any], list[list[str]], list[str]]:
    """Returns figures, their intervals, details by scenario, a table's rows, and the names of the aims that are missed:
    an aim counts for a scenario that was run, and a figure that it did not give is a miss."""
    figures: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    details: dict[str, Any] = {}
    rows: list[list[str]] = []
    missed: list[str] = []
    for name, findings in found.items():
        known = {figure: value for figure, value in findings.figures.items() if math.isfinite(value)}
        figures |= known
        intervals |= {figure: spread for figure, spread in findings.intervals.items() if figure in known}
        details[name] = {"faults": findings.faults, **findings.details}
        for line in AIMS.get(name, ()):
            quantity = line.quantity
            value = known.get(quantity.figure)
            aim = ""
            if quantity.aim is not None:
                if value is None or not quantity.aim.is_met(value):
                    missed.append(quantity.figure)
                aim = quantity.aim.text(value, quantity.form)
            shown = with_interval(value, intervals.get(quantity.figure), quantity.form)
            rows.append([f"{name}: {line.title}", shown, aim])
    return figures, intervals, details, rows, missed


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [one.name for one in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO", help=f"some of {', '.join(names)} (default: all)")
    parser.add_argument("--short", action="store_true", help="few and short ones: about 20 minutes instead of hours")
    parser.add_argument("--out", type=Path, default=Path("bench-results/chaos"), help="folder of finished scenarios")
    parser.add_argument("--logs", type=Path, help="keep the stacks' output here (default: in the folder of --out)")
    parser.add_argument("--no-keys", dest="keys", action="store_false", help="start the stacks without API keys")
    parser.add_argument("--url", help="a running stack on loopback, instead of starting some")
    parser.add_argument("--key", nargs="+", help="with --url: API keys of two tenants")
    parser.add_argument("--admin-key", help="with --url: the key for changes of the market")
    parser.add_argument("--pid", type=int, help="with --url: the launcher's process; kills and soak need it")
    parser.add_argument("--replicas", type=int, default=1, help="with --url: engine replicas of that stack")
    parser.add_argument("--log-port", type=int, help="with --url: UDP port to which its HAProxy logs")
    add_output_options(parser)
    options = parser.parse_args(arguments)
    options.scenario = options.scenario or names
    if unknown := sorted(set(options.scenario) - set(names)):
        parser.error(f"there is no scenario {unknown[0]!r}; the scenarios are {', '.join(names)}")
    if options.url and not re.match(r"http://(127\.\d+\.\d+\.\d+|localhost):\d+/?$", options.url):
        parser.error(
            f"--url must be an address of loopback with its port, such as http://127.0.0.1:8000: {options.url}"
        )
    if options.logs is None:
        options.logs = options.out / "logs"
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    conditions = setup() | {"short": options.short, "keys": options.keys if not options.url else bool(options.key)}
    own_limit()
    kept = Kept(options.out / ("short" if options.short else "full"))
    try:
        found = run(options, kept)
    except (ServerError, ValueError) as error:
        print(f"benchmarks.chaos: {error}", file=sys.stderr)
        return 1
    figures, intervals, details, rows, missed = summarise(found)
    print("\n" + table(["", "measured", "aim"], rows) + "\n")
    content = result("chaos", figures, conditions, details | {"intervals_95": intervals})
    write_result(options, content)
    if missed:
        print(f"missed: {', '.join(missed)}")
    return 1 if missed else 0
