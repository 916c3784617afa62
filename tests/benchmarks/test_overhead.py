"""The overhead benchmark's own arithmetic: who must have answered, what the figures are, prompts of exact length."""

import importlib.metadata
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.common.load import LoadError, MeasuredLoad, Request, TimedAnswer
from benchmarks.common.prompts import KINDS, PADDING, prompt
from benchmarks.common.report import result, setup, table
from benchmarks.common.servers import Server, ServerError
from benchmarks.overhead.compare import MANY, Sides, _summarise, check

TFNS = "finance-tfns"
ANSWER = TimedAnswer(TFNS, {"x-learnware": TFNS}, 160, 16, "", 0.0, (0.1, 0.4))


def sides(ours: TimedAnswer = ANSWER, stock: TimedAnswer = ANSWER) -> Sides:
    return Sides(MeasuredLoad([ours], 1.0), MeasuredLoad([stock], 1.0))


def test_the_same_learnware_and_work_on_both_sides_passes():
    check(sides(), [Request(TFNS, "", 16, TFNS)], 160)


@pytest.mark.parametrize(
    "wrong",
    [
        sides(ours=replace(ANSWER, headers={"x-learnware": "SmolLM2", "x-learnware-reason": "base:low-confidence"})),
        sides(ours=replace(ANSWER, headers={})),
        sides(ours=replace(ANSWER, model="SmolLM2")),
        sides(stock=replace(ANSWER, model="finance-fiqa_sa")),
        sides(ours=replace(ANSWER, completion_tokens=15)),
        sides(stock=replace(ANSWER, prompt_tokens=161)),
    ],
    ids=[
        "routed to the base",
        "no header",
        "body names another",
        "stock names another",
        "stopped early",
        "longer prompt",
    ],
)
def test_an_answer_from_elsewhere_or_of_another_length_voids_the_run(wrong: Sides):
    with pytest.raises(LoadError):
        check(wrong, [Request(TFNS, "", 16, TFNS)], 160)


def test_figures_are_medians_of_ratios_taken_within_a_round():
    def load(seconds: float, ttft: float) -> MeasuredLoad:
        return MeasuredLoad([replace(ANSWER, times=(ttft, ttft + 1))], seconds)

    # the machine gets slower from round to round; within each, this stack has 0.95 of stock's throughput
    many = [Sides(load(s / 0.95, 0.2), load(s, 0.1)) for s in (1.0, 2.0, 4.0)]
    one = [Sides(load(1, t + 0.005), load(1, t)) for t in (0.1, 0.2, 0.3)]
    figures, details = {}, {}
    rows = _summarise({1: one, MANY: many}, figures, details)
    assert figures["throughput_ratio_c8"] == pytest.approx(0.95)
    assert figures["ttft_p50_ratio_c8"] == pytest.approx(2.0)
    assert figures["ttft_added_ms_c1"] == pytest.approx(5.0)
    assert details["rounds"]["throughput_ratio_c8"]["interval_95"] == pytest.approx([0.95, 0.95])
    assert len(rows) == 5


async def count(text: str) -> int:
    """A tokenizer: a word and the blank before it are one token, a longer word two; every other character one; and 30
    for the chat template."""
    return 30 + sum(2 if len(token) > 7 else 1 for token in re.findall(r" ?[A-Za-z]+|[^A-Za-z ]| ", text))


@pytest.mark.parametrize("kind", KINDS, ids=[kind.learnware for kind in KINDS])
async def test_prompts_have_exactly_the_tokens_asked_for(kind):
    texts = [await prompt(kind, 160, seed, count) for seed in range(5)]
    assert [await count(text) for text in texts] == [160] * 5
    assert len(set(texts)) == 5, "a prefix cache must find nothing"
    assert all(text.endswith("\nAnswer:") and "{" not in text for text in texts)
    assert texts[0] == await prompt(kind, 160, 0, count), "seeded"


async def test_a_prompt_that_cannot_be_that_short_is_refused():
    with pytest.raises(ValueError, match="no prompt of exactly 31 tokens"):
        await prompt(KINDS[0], 31, 0, count)


async def test_padding_must_count_one_token():
    async def odd(text: str) -> int:
        return await count(text) + 7 * text.count(PADDING)

    async def every_seed() -> None:
        for seed in range(20):
            await prompt(KINDS[0], 161, seed, odd)

    with pytest.raises(ValueError, match="no prompt of exactly"):
        await every_seed()


def http_server(folder: Path, port: int) -> Server:
    # a child without the server's environment, as vLLM's look once they have set their titles
    code = (
        "import http.server, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], env={})\n"
        "handler = http.server.SimpleHTTPRequestHandler\n"
        f"http.server.ThreadingHTTPServer(('127.0.0.1', {port}), handler).serve_forever()\n"
    )
    return Server("a server", [sys.executable, "-c", code], f"http://127.0.0.1:{port}", folder / "log", {})


def test_a_server_is_waited_for_measured_with_its_children_and_ended(tmp_path, unused_tcp_port):
    server = http_server(tmp_path, unused_tcp_port)
    server.wait_for("/", timeout_s=30)
    assert len(server.processes()) == 2
    assert server.measure_memory() > 5e6
    assert server.cpu_seconds() > 0
    server.stop()
    assert server.processes() == []
    assert server.peak_bytes > 5e6


def test_a_server_that_ends_at_once_is_reported_with_its_output(tmp_path):
    code = "import sys; sys.exit('port 8000 is taken')"
    server = Server("a server", [sys.executable, "-c", code], "http://127.0.0.1:1", tmp_path / "log", {})
    with pytest.raises(ServerError, match="port 8000 is taken"):
        server.wait_for("/", timeout_s=30)
    server.stop()


def test_a_report_has_its_four_parts():
    report = result("overhead", {"throughput_ratio_c8": 0.98}, setup(), {"rounds": {}})
    assert set(report) == {"benchmark", "figures", "setup", "details"}
    assert report["setup"]["cores"] >= 1
    assert report["setup"]["versions"]["torch"] == importlib.metadata.version("torch")


def test_a_table_is_aligned_markdown():
    lines = table(["", "ours"], [["tokens/s", "146.3"], ["TTFT ms", "9"]]).splitlines()
    assert lines == ["|          |  ours |", "|----------|------:|", "| tokens/s | 146.3 |", "| TTFT ms  |     9 |"]
