"""Measures what routing costs: `python -m benchmarks.overhead`.

This stack, asked with `model: "auto"`, against the stock vLLM OpenAI server with the same model, adapters, flags and
worker, whose clients name the right adapter themselves. This stack checks an API key and counts its tenant's requests
and tokens, with limits that the load does not reach; the stock server checks none. The same prompts of fixed length go
to both in turn (only one is under load at a time), with one client and with eight; the side that goes first changes
from round to round. Ratios are taken within a round, and the figure is the median over the rounds with its bootstrap
interval.

A run fails when an answer did not come from the learnware that was expected, or when the two sides did not do the same
work (prompt and output tokens).

Beside times it reports CPU seconds of each server's processes per output token (`cpu_per_token_ratio_c8`): they hardly
depend on what else the machine does, and so tell what the difference would be on a quiet one.
"""

import argparse
import asyncio
import importlib.util
import json
import math
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import aiohttp

from benchmarks.common.load import LoadError, MeasuredLoad, Request, closed_loop
from benchmarks.common.prompts import KINDS, prompt
from benchmarks.common.report import add_output_options, result, setup, table, write_result
from benchmarks.common.servers import BASE_MODEL_ID, Server, cpu_dtype, embedded_base, free_port
from benchmarks.common.statistics import interval

WORKER = "serving.engine.worker.LearnwareCPUWorker"
# The engine's flags, the same on both sides; those of `deploy/cpu.yaml`.
ENGINE = {"slots": 8, "max_rank": 16, "max_model_len": 2048, "max_num_seqs": 16, "kv_cache_gib": 1.0}
STRUCTURED = {"backend": "xgrammar", "disable_any_whitespace": True}
START_TIMEOUT_S = 600.0
MANY = 8  # clients
LIMITS = {"requests_per_minute": 60_000, "tokens_per_minute": 100_000_000, "concurrent_requests": 1_000}
"""Limits of the tenant, so that all are counted and none is reached."""


class Plan(NamedTuple):
    """Sizes of a run."""

    rounds: int
    requests_one: int
    requests_many: int
    tokens_one: int
    tokens_many: int
    prompt_tokens: int


class Sides(NamedTuple):
    """Both sides' measurements of one load."""

    ours: MeasuredLoad
    stock: MeasuredLoad
    cpu_ours: float = math.nan  # CPU seconds of all processes during the load; nan for servers that run elsewhere
    cpu_stock: float = math.nan


def main() -> int:
    options = _options()
    plan = Plan(
        options.rounds,
        options.requests_one,
        options.requests_many,
        options.tokens_one,
        options.tokens_many,
        options.prompt_tokens,
    )
    environment = setup()
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="overhead-")))
        figures: dict[str, float] = {}
        ours = _start_ours(options, folder, cleanup, figures)
        stock = _start_stock(options, folder, cleanup)
        measured, details = asyncio.run(_measure(ours, stock, plan))
        if ours.server:
            figures["peak_memory_gb"] = ours.server.peak_bytes / 1e9
    rows = _summarise(measured, figures, details)
    print()
    print(table(["", "auto (this stack)", "stock, adapter named", "ratio or difference", "95 % interval"], rows))
    print()
    for name in ("start_to_first_answer_s", "peak_memory_gb"):
        if name in figures:
            print(f"{name}: {figures[name]:.1f}")
    setup_ = environment | {"engine": ENGINE, "rounds": plan.rounds, "plan": plan._asdict(), "keys": bool(ours.key)}
    write_result(options, result("overhead", figures, setup_, details))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12, help="measured rounds, at least 5 (default: 12)")
    parser.add_argument("--requests-one", type=int, default=8, help="requests of a round with one client")
    parser.add_argument("--requests-many", type=int, default=16, help=f"requests of a round with {MANY} clients")
    parser.add_argument("--tokens-one", type=int, default=8, help="output tokens, one client (TTFT is what counts)")
    parser.add_argument("--tokens-many", type=int, default=32, help=f"output tokens, {MANY} clients")
    parser.add_argument("--prompt-tokens", type=int, default=160, help="tokens of every prompt, chat template included")
    parser.add_argument("--short", action="store_true", help="5 rounds (about 5 minutes)")
    parser.add_argument("--ours", metavar="URL", help="a running stack, instead of starting one")
    parser.add_argument("--key", help="with --ours: an API key of that stack")
    parser.add_argument("--no-keys", dest="keys", action="store_false", help="start this stack without keys and limits")
    parser.add_argument("--stock", metavar="URL", help="a running stock server, instead of starting one")
    parser.add_argument("--learnwares", type=Path, help="folder of learnwares (default: the starter learnwares)")
    parser.add_argument("--logs", type=Path, help="keep the servers' output here")
    add_output_options(parser)
    options = parser.parse_args()
    if options.short:
        options.rounds = 5
    if options.rounds < 5:
        parser.error("--rounds must be at least 5")
    return options


# -- the two servers


def _start_ours(options: argparse.Namespace, folder: Path, cleanup: ExitStack, figures: dict[str, float]) -> "_Side":
    """Starts this stack with the flags above and notes the time from start to the first routed answer."""
    if options.ours:
        return _Side(options.ours.rstrip("/"), None, options.key)
    port = free_port()
    config: dict[str, Any] = {"http": {"port": port}, "engine": ENGINE}
    key = secrets.token_urlsafe(24) if options.keys else None
    if key is not None:
        config |= {"api_keys": [f"benchmark:{key}"], "limits": LIMITS}
    if options.learnwares:
        config["learnwares"] = {"folder": str(options.learnwares.resolve())}
    file = folder / "config.yaml"
    file.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    command = [str(Path(sys.executable).with_name("learnware-serving")), "serve", "--config", str(file)]
    print("starting this stack …", flush=True)
    server = _start("this stack", command, port, _log(options, folder, "ours"), {}, cleanup)
    first = {"model": "auto", "messages": [{"role": "user", "content": KINDS[0].head}], "max_tokens": 1}
    side = _Side(server.url, server, key)
    server.wait_for("/v1/chat/completions", START_TIMEOUT_S, json.dumps(first).encode(), side.headers)
    figures["start_to_first_answer_s"] = time.perf_counter() - server.started
    print(f"first answer after {figures['start_to_first_answer_s']:.1f} s", flush=True)
    return side


def _start_stock(options: argparse.Namespace, folder: Path, cleanup: ExitStack) -> "_Side":
    """Starts vLLM's own server with every learnware under its id."""
    if options.stock:
        return _Side(options.stock.rstrip("/"), None)
    port = free_port()
    base = embedded_base()
    learnwares = options.learnwares or _starter_learnwares()
    adapters = [f"{entry.parent.name}={entry.parent}" for entry in sorted(learnwares.glob("*/adapter_config.json"))]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--model", base, "--served-model-name", BASE_MODEL_ID]
    command += ["--dtype", cpu_dtype(), "--enforce-eager", "--worker-cls", WORKER, "--enable-lora"]
    command += ["--max-loras", str(ENGINE["slots"]), "--max-cpu-loras", str(max(len(adapters), int(ENGINE["slots"])))]
    command += ["--max-lora-rank", str(ENGINE["max_rank"]), "--max-model-len", str(ENGINE["max_model_len"])]
    command += ["--max-num-seqs", str(ENGINE["max_num_seqs"]), "--structured-outputs-config", json.dumps(STRUCTURED)]
    command += [
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        "hermes",
        "--disable-uvicorn-access-log",
        "--lora-modules",
        *adapters,
    ]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": f"{ENGINE['kv_cache_gib']:g}",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    print("starting the stock server …", flush=True)
    server = _start("the stock server", command, port, _log(options, folder, "stock"), environment, cleanup)
    server.wait_for("/health", START_TIMEOUT_S)
    return _Side(server.url, server)


def _start(
    name: str, command: Sequence[str], port: int, log: Path, environment: dict[str, str], cleanup: ExitStack
) -> Server:
    server = Server(name, command, f"http://127.0.0.1:{port}", log, environment)
    cleanup.callback(server.stop)
    return server


def _starter_learnwares() -> Path:
    """Returns the folder of the starter learnwares. It is found without importing the package, since a benchmark stays
    outside of what it measures."""
    found = importlib.util.find_spec("serving")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the package `serving` is not installed here; give --learnwares or --stock")
    return Path(found.submodule_search_locations[0]) / "starter_learnwares"


def _log(options: argparse.Namespace, folder: Path, name: str) -> Path:
    where = options.logs or folder
    where.mkdir(parents=True, exist_ok=True)
    return Path(where / f"{name}.log")


# -- the measurement


class _Side(NamedTuple):
    """A server to send load to, and its API key, if it wants one; `server` is None when it was not started here."""

    url: str
    server: Server | None
    key: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    async def load(self, requests: Sequence[Request], clients: int) -> tuple[MeasuredLoad, float]:
        """Sends a load and returns it with the CPU seconds that the server's processes used for it."""
        before = self.server.cpu_seconds() if self.server else math.nan
        measured = await closed_loop(self.url, requests, clients, self.headers)
        if self.server is None:
            return measured, math.nan
        self.server.measure_memory()
        return measured, self.server.cpu_seconds() - before


async def _measure(ours: _Side, stock: _Side, plan: Plan) -> tuple[dict[int, list[Sides]], dict[str, Any]]:
    """Measures all rounds and returns them by number of clients; the first one warms up and is dropped."""
    measured: dict[int, list[Sides]] = {1: [], MANY: []}
    routed: Counter[str] = Counter()
    same_text = total = 0
    for number in range(plan.rounds + 1):
        for clients, requests, tokens in (
            (1, plan.requests_one, plan.tokens_one),
            (MANY, plan.requests_many, plan.tokens_many),
        ):
            seed = (number * 2 + (clients > 1)) * 10_000
            named = await _requests(ours, stock, plan, requests, tokens, seed)
            automatic = [Request("auto", r.prompt, r.max_tokens, r.expected) for r in named]
            order = [(ours, automatic), (stock, named)]
            loads: dict[_Side, tuple[MeasuredLoad, float]] = {}
            for side, load in order if number % 2 else reversed(order):
                loads[side] = await side.load(load, clients)
            sides = Sides(loads[ours][0], loads[stock][0], loads[ours][1], loads[stock][1])
            check(sides, named, plan.prompt_tokens)
            if number == 0:
                continue
            measured[clients].append(sides)
            routed.update(r.expected for r in named if r.expected)
            same_text += sum(a.text == b.text for a, b in zip(sides.ours.answers, sides.stock.answers, strict=True))
            total += len(named)
        if number:
            many, one = measured[MANY][-1], measured[1][-1]
            speeds = f"{many.ours.throughput:.1f} : {many.stock.throughput:.1f} tokens/s"
            waits = f"{one.ours.ttft_p50 * 1e3:.1f} : {one.stock.ttft_p50 * 1e3:.1f} ms"
            print(f"round {number}/{plan.rounds}: {MANY} clients {speeds}; one client TTFT {waits}", flush=True)
        else:
            print("warm-up done", flush=True)
    return measured, {"answers_by_learnware": dict(sorted(routed.items())), "share_same_text": same_text / total}


async def _requests(ours: _Side, stock: _Side, plan: Plan, count: int, tokens: int, seed: int) -> list[Request]:
    """Returns requests that name the learnware which `auto` will take; the router is asked for it beforehand.

    Raises:
        LoadError: the router would send more than half of the prompts to the base model.
    """
    async with aiohttp.ClientSession() as session:

        async def tokens_of(text: str) -> int:
            message = {"model": BASE_MODEL_ID, "messages": [{"role": "user", "content": text}]}
            async with session.post(f"{stock.url}/tokenize", json=message) as response:
                if response.status != 200:
                    raise LoadError(f"{stock.url}/tokenize answered {response.status}: {(await response.text())[:300]}")
                return int((await response.json())["count"])

        found: list[Request] = []
        tried = 0
        while len(found) < count:
            text = await prompt(KINDS[tried % len(KINDS)], plan.prompt_tokens, seed + tried, tokens_of)
            tried += 1
            message = {"model": "auto", "messages": [{"role": "user", "content": text}]}
            async with session.post(f"{ours.url}/v1/route", json=message, headers=ours.headers) as response:
                if response.status != 200:
                    raise LoadError(f"{ours.url}/v1/route answered {response.status}: {(await response.text())[:300]}")
                learnware = (await response.json())["learnware"]
            if learnware is not None:
                found.append(Request(learnware, text, tokens, learnware))
            if tried - len(found) > max(len(KINDS) // 2, tried // 2):
                raise LoadError(f"the router sends {tried - len(found)} of {tried} prompts to the base model")
    return found


def check(sides: Sides, requests: Sequence[Request], prompt_tokens: int) -> None:
    """Holds both sides to the same learnwares and the same work.

    Raises:
        LoadError: an answer came from elsewhere, or has another number of tokens.
    """
    for request, ours, stock in zip(requests, sides.ours.answers, sides.stock.answers, strict=True):
        answered = (ours.model, ours.headers.get("x-learnware"), stock.model)
        if answered != (request.expected,) * 3:
            raise LoadError(
                f"expected {request.expected}; this stack answered as {ours.model} with x-learnware "
                f"{ours.headers.get('x-learnware')} ({ours.headers.get('x-learnware-reason')}), stock as {stock.model}"
            )
        for answer in (ours, stock):
            if (answer.prompt_tokens, answer.completion_tokens) != (prompt_tokens, request.max_tokens):
                raise LoadError(
                    f"{answer.prompt_tokens} prompt and {answer.completion_tokens} output tokens, where "
                    f"{prompt_tokens} and {request.max_tokens} were asked for"
                )


# -- the figures


def _summarise(measured: dict[int, list[Sides]], figures: dict[str, float], details: dict[str, Any]) -> list[list[str]]:
    """Fills figures and details; returns the table's rows."""
    one, many = measured[1], measured[MANY]
    rows: list[list[str]] = []
    details["rounds"] = {}

    def add(name: str, title: str, ours: list[float], stock: list[float], difference: bool = False) -> None:
        paired = [a - b if difference else a / b for a, b in zip(ours, stock, strict=True)]
        low, high = interval(paired)
        figures[name] = median(paired)
        details["rounds"][name] = {"ours": ours, "stock": stock, "paired": paired, "interval_95": [low, high]}
        form = "{:+.1f}" if difference else "{:.3f}"
        spread = f"{form.format(low)} to {form.format(high)}"
        rows.append([title, f"{median(ours):.1f}", f"{median(stock):.1f}", form.format(figures[name]), spread])

    def both(sides: list[Sides], quantity: Callable[[MeasuredLoad], float]) -> tuple[list[float], list[float]]:
        return [quantity(side.ours) for side in sides], [quantity(side.stock) for side in sides]

    add("throughput_ratio_c8", "output tokens/s, 8 clients", *both(many, lambda m: m.throughput))
    add("ttft_p50_ratio_c8", "TTFT p50 ms, 8 clients", *both(many, lambda m: m.ttft_p50 * 1e3))
    add("tpot_p50_ratio_c8", "TPOT p50 ms, 8 clients", *both(many, lambda m: m.tpot_p50 * 1e3))
    add("ttft_added_ms_c1", "TTFT p50 ms, one client", *both(one, lambda m: m.ttft_p50 * 1e3), difference=True)
    add("throughput_ratio_c1", "output tokens/s, one client", *both(one, lambda m: m.throughput))
    if not any(math.isnan(side.cpu_ours + side.cpu_stock) for side in many):
        tokens = [sum(answer.completion_tokens for answer in side.ours.answers) / 1e3 for side in many]
        ours = [side.cpu_ours / count for side, count in zip(many, tokens, strict=True)]
        stock = [side.cpu_stock / count for side, count in zip(many, tokens, strict=True)]
        add("cpu_per_token_ratio_c8", "CPU ms per output token, 8 clients", ours, stock)
    return rows
