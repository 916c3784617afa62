"""The market of a stack on this machine: where it is, and whether the stack has followed a change of it.

A stack notes its market and its configuration in the lock of its run folder (`serving.launch.instance`), so that the
command line finds both, whatever file or port the stack was started with. Keys are not among them.
"""

import json
import re
import ssl
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

from serving.config import Config
from serving.launch.instance import LOCK_FILE, Claim, local_url, plan
from serving.launch.local_key import admin_key
from serving.names import ENGINE, ROUTER
from specs.errors import InvalidInput
from specs.files import is_held
from specs.market.journal import is_market

FOLLOW_TIMEOUT_S = 10.0
"""Seconds that the command line waits until the stack has followed a change; it takes under one."""
POLL_S = 0.2
"""Seconds between two looks at the stack's metrics."""
_SEQUENCE = re.compile(r'^learnware_market_sequence\{[^}]*deployment="(\w+)"[^}]*\} (\S+)$', re.MULTILINE)
_FAILURES = re.compile(r'^learnware_scrape_failures\{deployment="(?!haproxy)\w+"\} [^0]', re.MULTILINE)
_MARKET, _CONFIG = "market", "config"


class RunningStack(NamedTuple):
    """A stack that runs on this machine: its HTTP port, its market's folder, and its configuration without keys."""

    port: int
    market: Path
    config: Config

    def has_followed(self, sequence: int) -> bool:
        """Whether every router and engine replica serves the market as of its change number `sequence`, or a later
        one."""
        key = admin_key(self.config)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        url = f"{local_url(self.config)}/metrics"
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 (a fixed scheme)
        # The certificate is for the name by which clients come, and this comes by an address of this machine.
        trusting = ssl._create_unverified_context() if url.startswith("https:") else None  # noqa: S323, SLF001
        try:
            with urllib.request.urlopen(request, timeout=FOLLOW_TIMEOUT_S, context=trusting) as answer:  # noqa: S310
                text = answer.read().decode()
        except (OSError, ValueError):
            return False
        reached = _SEQUENCE.findall(text)
        return (
            {deployment for deployment, _ in reached} == {ENGINE, ROUTER}
            and all(float(value) >= sequence for _, value in reached)
            and not _FAILURES.search(text)
        )


def market_folder(config: Config) -> Path:
    """Returns `market.path`, else a folder in the run folder of the stack of this port, which lasts from the stack's
    start to its next one."""
    return config.market.folder or plan(config.http.host, config.http.port).folder / "market"


def announce_market(claim: Claim, config: Config, market: Path) -> None:
    """Notes market and configuration of the stack that holds the claim, for `running_stacks`."""
    shown = config.model_dump(mode="json", exclude={"api_keys": True, "market": {"admin_key": True}})
    shown["keys"]["file"] = None if config.keys.path is None else str(config.keys.path)
    claim.note({_MARKET: str(market), _CONFIG: shown})


def running_stacks(config: Config) -> list[RunningStack]:
    """Returns this user's stacks on this machine that run and have a market, by their ports."""
    folder = plan(config.http.host, config.http.port).folder.parent
    found = (_running(path) for path in sorted(folder.glob(f"*/{LOCK_FILE}")))
    return [stack for stack in found if stack is not None]


def _running(lock: Path) -> RunningStack | None:
    try:
        if not is_held(lock):
            return None
        facts = json.loads(lock.read_text(encoding="utf-8"))
        config = Config.model_validate(facts[_CONFIG])
        return RunningStack(config.http.port, Path(facts[_MARKET]), config)
    except (OSError, ValueError, KeyError):
        return None  # it is just starting, or was started by another version


class Place(NamedTuple):
    """The market that a command works on: its folder, the configuration by which submissions are checked, and the stack
    that serves it, or None."""

    folder: Path
    config: Config
    stack: RunningStack | None


def find_market(config: Config, *, given: bool, market: Path | None = None, create: bool = False) -> Place:
    """Finds the market that a command means.

    Args:
        config: the configuration, whose port tells which stack is meant.
        given: a file was named for it; otherwise that of the running stack counts.
        market: the folder that was named, or None.
        create: the folder need not be a market yet.

    Raises:
        InvalidInput: there is no such market; the message says how to get to one.
    """
    stacks = running_stacks(config)
    on_port = next((stack for stack in stacks if stack.port == config.http.port), None)
    named = market or (config.market.folder if given else None)
    if named is None and on_port is None:
        raise InvalidInput(
            f"no market: market.path is not set, and no stack runs on port {config.http.port}; give --market FOLDER, "
            "or --port PORT of the running stack"
        )
    folder = named.expanduser().resolve() if named is not None else on_port.market if on_port is not None else Path()
    if not create and not is_market(folder):
        raise InvalidInput(
            f"there is no market in {folder}; a stack with this market.path makes one, and so does --create here"
        )
    serving = next((stack for stack in stacks if stack.market.resolve() == folder.resolve()), None)
    return Place(folder, serving.config if serving is not None and not given else config, serving)


def wait_until_followed(stack: RunningStack, sequence: int) -> bool:
    """Waits until the stack has followed the market's change number `sequence`; returns False when it has not after
    `FOLLOW_TIMEOUT_S` seconds."""
    deadline = time.monotonic() + FOLLOW_TIMEOUT_S
    while not stack.has_followed(sequence):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
