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
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

from specs.canary import canary_id
from specs.errors import LearnwareError
from specs.market import quarantine
from specs.market.catalogue import read_catalogue
from specs.market.intake import Limits
from specs.market.journal import State
from specs.market.store import Market
from tests.specs.learnware_folder import write_learnware
from tests.specs.market.support import edit_card, pack, requirements, variant

IDS = ("a", "b", "c", "d")
LIFE_S = (0.002, 0.05)
"""How long a child lives: an operation takes about 4 ms in memory."""


class Known(NamedTuple):
    """What the returned operations made of the market: the served ids and their versions, canaries among them; the
    highest version that each id ever had, itself or as its canary, and itself; and the versions of each id in
    quarantine, in the order in which they came there."""

    served: dict[str, int]
    highest: dict[str, int]
    own: dict[str, int]
    held: dict[str, list[int]]


def prepare(folder: Path) -> None:
    """A submission that is refused, and one of each id that others are made from."""
    quarantine.QUARANTINE_KEPT = 1 << 30  # also in the children
    whole = write_learnware(folder / "whole")
    for number, name in enumerate(IDS):
        variant(whole, folder / name, name, version=0, scale=1 + number)
    edit_card(variant(whole, folder / "bad", "bad"), base_model={"id": "another"})


def submission(folder: Path, name: str, version: int, packed: bool) -> Path:
    """A version of a learnware, as a zip or a folder; made when it is first needed."""
    made = folder / f"{name}-{version}"
    if not made.exists():
        half = folder / f"half-{os.getpid()}"
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(folder / name, half, copy_function=os.link)
        card = half / "learnware.yaml"
        text = card.read_text()
        card.unlink()
        card.write_text(text.replace("version: 0", f"version: {version}"))
        half.rename(made)
    return pack(made, folder / f"{os.getpid()}.zip") if packed else made


def open_market(folder: Path) -> Market:
    return Market(folder / "market", requirements(folder / "base"), Limits(), lock_timeout_s=10)


def choose(rng: random.Random, known: Known) -> tuple[str, str, int]:
    """An operation, mostly one that succeeds: (kind, id, version)."""
    name = rng.choice(IDS)
    canary = ["promote", "roll-back"] if canary_id(name) in known.served else ["canary", "canary"]
    kinds = ["submit"] if name not in known.served else ["replace", "remove", "quarantine", *canary]
    kind = rng.choice([*kinds, *kinds, "release", "refuse", "collect"])
    highest = known.highest.get(name, 0)
    return kind, name, rng.choice([highest + 1, highest + 1, max(1, highest)])


def apply(market: Market, folder: Path, kind: str, name: str, version: int, packed: bool) -> None:
    """Raises LearnwareError where the market refuses, which changes nothing that is served."""
    if kind == "remove":
        market.remove(name)
    elif kind == "quarantine":
        market.quarantine(name, "by chance")
    elif kind == "release":
        market.release(name)
    elif kind == "promote":
        market.promote(name)
    elif kind == "roll-back":
        market.roll_back(name, "by chance")
    elif kind == "collect":
        market.collect_garbage(kept_s=0)
    else:
        source = folder / "bad" if kind == "refuse" else submission(folder, name, version, packed)
        with market.stage(source) as staged:
            if kind == "canary":
                market.submit_canary(staged, 0.1)
            else:
                (market.replace if kind == "replace" else market.submit)(staged)


def expect(known: Known, kind: str, name: str, version: int) -> Known:
    """What is known after an operation."""
    served, highest, canary = dict(known.served), known.highest.get(name, 0), canary_id(name)
    held = {each: list(versions) for each, versions in known.held.items()}
    above = name in served and canary not in served
    new = (kind == "submit" and name not in served) or (kind in ("replace", "canary") and above)
    if new and version > highest:
        served[canary if kind == "canary" else name] = version
        own = known.own if kind == "canary" else known.own | {name: version}
        return Known(served, known.highest | {name: version}, own, held)
    if kind == "promote" and canary in served:
        served[name] = served.pop(canary)
        return Known(served, known.highest, known.own | {name: served[name]}, held)
    if kind in ("remove", "quarantine", "roll-back"):
        served.pop(canary, None)
    if kind == "remove":
        served.pop(name, None)
    elif kind == "quarantine" and name in served:
        held.setdefault(name, []).append(served.pop(name))
    elif kind == "release" and held.get(name) and name not in served and held[name][-1] == known.own[name]:
        served[name] = held[name].pop()
    return Known(served, known.highest, known.own, held)


def child(folder: Path, known: Known, seed: int, pipe: int) -> None:
    """Works until it is killed."""
    rng = random.Random(seed)
    market = open_market(folder)
    while True:
        kind, name, version = choose(rng, known)
        tell(pipe, ["begin", kind, name, version])
        try:
            apply(market, folder, kind, name, version, rng.random() < 0.5)
            tell(pipe, ["done"])
        except LearnwareError as error:
            tell(pipe, ["refused", type(error).__name__])
        known = expect(known, kind, name, version)


def tell(pipe: int, message: list[object]) -> None:
    os.write(pipe, json.dumps(message).encode() + b"\n")


def one_life(folder: Path, known: Known, rng: random.Random, limit: int) -> list[list[object]]:
    """Starts a child, kills it after a random time (or `limit` operations) and returns what it told."""
    reading, writing = os.pipe()
    seed = rng.randrange(1 << 30)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            child(folder, known, seed, writing)
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
    known = Known({}, {}, {}, {})
    done = kills = kept = lost = refusals = 0
    kinds: dict[str, int] = {}
    while done < operations:
        for name in IDS:  # beforehand: a child has little time
            for ahead in range(1, 4):
                submission(folder, name, known.highest.get(name, 0) + ahead, packed=False)
        under_way: list[object] | None = None
        for told in one_life(folder, known, rng, operations - done + 1):
            if told[0] == "begin":
                under_way = told
                continue
            assert under_way is not None
            _, kind, name, version = under_way
            refused = told[0] == "refused"
            after = expect(known, str(kind), str(name), int(str(version)))
            may_fail = kind in ("submit", "replace", "release", "canary", "promote", "roll-back")
            assert refused == (kind == "refuse" or (may_fail and after == known)), (under_way, told)
            known, under_way = after, None
            refusals += refused
            kinds[str(kind)] = kinds.get(str(kind), 0) + 1
            done += 1
        kills += 1
        market = open_market(folder)
        assert market.check_integrity() == [], (done, market.check_integrity())
        found = {entry.id: entry.version for entry in read_catalogue(market.root).entries}
        choices = [known]
        if under_way is not None:
            choices.append(expect(known, str(under_way[1]), str(under_way[2]), int(str(under_way[3]))))
        assert found in [choice.served for choice in choices], (done, found, choices, under_way)
        in_effect = len(choices) == 2 and choices[0].served != choices[1].served and found == choices[1].served
        kept += in_effect
        lost += len(choices) == 2 and choices[0].served != choices[1].served and not in_effect
        refused_now = sum(record.id == "bad" for record in market.records(State.QUARANTINED))
        assert refused_now == 1 or not kinds.get("refuse"), (refused_now, kinds)  # said each time, kept once
        known = choices[1] if in_effect else known
    report = {"operations": done, "kills": kills, "kinds": kinds, "refusals": refusals}
    print(json.dumps(report | {"cut_and_in_effect": kept, "cut_and_not": lost}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
