"""A program: random operations on a market in child processes that are killed at random moments.

    python -m tests.specs.market.random_operations FOLDER OPERATIONS SEED

FOLDER must be empty. A child announces each operation in a pipe before it begins and again when it has returned. After
each SIGKILL the market is opened anew; its integrity must be clean, and what it serves must be what the returned
operations made of it, or that and the one operation that was under way. The last line printed is a JSON report.

Children are forked, so that a restart costs milliseconds; they share nothing with this process but the files.
"""

import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

from specs.errors import LearnwareError
from specs.market.catalogue import read_catalogue
from specs.market.intake import Limits
from specs.market.journal import State
from specs.market.store import Market
from tests.specs.learnware_folder import write_learnware
from tests.specs.market.support import edit_card, pack, requirements, variant

IDS = ("a", "b", "c", "d")
VERSIONS = 3
LIFE_S = (0.002, 0.05)
"""How long a child lives: an operation takes about 4 ms in memory."""

Served = dict[str, int]


def prepare(folder: Path) -> None:
    """Submissions: each id in some versions, as zips and folders, and one that is refused."""
    whole = write_learnware(folder / "whole")
    for number, name in enumerate(IDS):
        for version in range(1, VERSIONS + 1):
            source = variant(whole, folder / f"{name}-{version}", name, version, scale=1 + number + version / 8)
            pack(source, folder / f"{name}-{version}.zip")
    edit_card(variant(whole, folder / "bad", "bad"), base_model={"id": "another"})


def open_market(folder: Path) -> Market:
    return Market(folder / "market", requirements(folder / "base"), Limits(), lock_timeout_s=10)


def choose(rng: random.Random, served: Served) -> tuple[str, str, int]:
    """An operation, mostly one that succeeds: (kind, id, version)."""
    name = rng.choice(IDS)
    kinds = ["submit"] if name not in served else ["replace", "remove", "quarantine"]
    kind = rng.choice([*kinds, *kinds, "refuse", "collect"])
    return kind, name, rng.randint(1, VERSIONS)


def apply(market: Market, folder: Path, kind: str, name: str, version: int, packed: bool) -> None:
    """Raises LearnwareError where the market refuses, which changes nothing that is served."""
    if kind == "remove":
        market.remove(name)
    elif kind == "quarantine":
        market.quarantine(name, "by chance")
    elif kind == "collect":
        market.collect_garbage(kept_s=0)
    else:
        source = folder / ("bad" if kind == "refuse" else f"{name}-{version}{'.zip' if packed else ''}")
        with market.stage(source) as staged:
            (market.replace if kind == "replace" else market.submit)(staged)


def expect(served: Served, kind: str, name: str, version: int) -> Served:
    """What is served after an operation."""
    after = dict(served)
    if (kind == "submit" and name not in served) or (kind == "replace" and version > served.get(name, VERSIONS)):
        after[name] = version
    elif kind in ("remove", "quarantine"):
        after.pop(name, None)
    return after


def child(folder: Path, served: Served, seed: int, pipe: int) -> None:
    """Works until it is killed."""
    rng = random.Random(seed)
    market = open_market(folder)
    while True:
        kind, name, version = choose(rng, served)
        tell(pipe, ["begin", kind, name, version])
        try:
            apply(market, folder, kind, name, version, rng.random() < 0.5)
            tell(pipe, ["done"])
        except LearnwareError as error:
            tell(pipe, ["refused", type(error).__name__])
        served = expect(served, kind, name, version)


def tell(pipe: int, message: list[object]) -> None:
    os.write(pipe, json.dumps(message).encode() + b"\n")


def one_life(folder: Path, served: Served, rng: random.Random, limit: int) -> list[list[object]]:
    """Starts a child, kills it after a random time (or `limit` operations) and returns what it told."""
    reading, writing = os.pipe()
    seed = rng.randrange(1 << 30)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            child(folder, served, seed, writing)
        finally:
            os._exit(status)
    os.close(writing)
    told = b""
    deadline = time.monotonic() + rng.uniform(*LIFE_S)
    while (left := deadline - time.monotonic()) > 0 and told.count(b"begin") < limit:
        if select.select([reading], [], [], left)[0]:
            part = os.read(reading, 65536)
            if not part:
                raise SystemExit("a child ended by itself: see above")
            told += part
    os.kill(pid, signal.SIGKILL)
    while part := os.read(reading, 65536):
        told += part
    os.close(reading)
    os.waitpid(pid, 0)
    return [json.loads(line) for line in told.splitlines()]


def main(folder: Path, operations: int, seed: int) -> None:
    rng = random.Random(seed)
    prepare(folder)
    served: Served = {}
    done = kills = kept = lost = refusals = 0
    kinds: dict[str, int] = {}
    while done < operations:
        under_way: list[object] | None = None
        for told in one_life(folder, served, rng, operations - done + 1):
            if told[0] == "begin":
                under_way = told
                continue
            assert under_way is not None
            _, kind, name, version = under_way
            refused = told[0] == "refused"
            after = expect(served, str(kind), str(name), int(str(version)))
            assert refused == (kind == "refuse" or (kind in ("submit", "replace") and after == served)), (
                under_way,
                told,
            )
            served, under_way = after, None
            refusals += refused
            kinds[str(kind)] = kinds.get(str(kind), 0) + 1
            done += 1
        kills += 1
        market = open_market(folder)
        assert market.check_integrity() == [], (done, market.check_integrity())
        found = {entry.id: entry.version for entry in read_catalogue(market.root).entries}
        choices = [served]
        if under_way is not None:
            choices.append(expect(served, str(under_way[1]), str(under_way[2]), int(str(under_way[3]))))
        assert found in choices, (done, found, choices, under_way)
        kept += len(choices) == 2 and choices[0] != choices[1] and found == choices[1]
        lost += len(choices) == 2 and choices[0] != choices[1] and found == choices[0]
        refused_now = sum(record.id == "bad" for record in market.records(State.QUARANTINED))
        assert refused_now >= kinds.get("refuse", 0), (refused_now, kinds)
        served = found
    report = {"operations": done, "kills": kills, "kinds": kinds, "refusals": refusals}
    print(json.dumps(report | {"cut_and_in_effect": kept, "cut_and_not": lost}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
