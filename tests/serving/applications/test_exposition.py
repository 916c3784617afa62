"""Merging expositions: what comes out is valid Prometheus text with every series once."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.applications.exposition import Exposition, merge
from serving.applications.metrics import FORGET_AFTER_S, REPLICA_LINE, Scraper
from serving.replica.request_metrics import ReplicaMetrics


def process_text(amount: float) -> str:
    registry = CollectorRegistry()
    Counter("requests", "Requests, with a \\ and\na line break.", ["path"], registry=registry).labels('a"b\\c\n{}').inc(
        amount
    )
    Histogram("seconds", "Seconds.", buckets=(0.001, 1), registry=registry).observe(amount / 1000)
    Gauge("plain", "No labels.", registry=registry).set(amount)
    return generate_latest(registry).decode()


def two_replicas() -> str:
    return merge(
        Exposition({"deployment": "engine", "replica": name}, process_text(n)) for n, name in ((1, "a"), (2, "b"))
    )


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} appears twice"
            found[key] = sample.value
    return found


def test_every_series_of_every_process_is_there_once_with_its_labels() -> None:
    mine = {("deployment", "engine"), ("replica", "b")}
    merged = samples(two_replicas())
    assert merged["plain", frozenset(mine)] == 2
    assert merged["requests_total", frozenset(mine | {("path", 'a"b\\c\n{}')})] == 2
    assert merged["seconds_bucket", frozenset(mine | {("le", "0.001")})] == 0
    assert merged["seconds_bucket", frozenset(mine | {("le", "+Inf")})] == 1
    assert len(merged) == 2 * len(samples(process_text(1)))


def test_a_family_has_one_help_and_one_type_and_its_samples_together() -> None:
    lines = two_replicas().splitlines()
    for kind in ("HELP", "TYPE"):
        names = [line.split()[2] for line in lines if line.startswith(f"# {kind} ")]
        assert len(names) == len(set(names))
    families = list(text_string_to_metric_families(two_replicas()))
    assert len(families) == len({family.name for family in families})
    assert {family.name: family.type for family in families}["seconds"] == "histogram"


def test_values_are_copied_exactly() -> None:
    text = "# TYPE big gauge\nbig 1.7953855321882653e+09\nnan NaN\ninf +Inf\nstamped 4 1700000000000\n"
    merged = merge([Exposition({"r": "x"}, text)])
    assert 'big{r="x"} 1.7953855321882653e+09' in merged
    assert 'nan{r="x"} NaN' in merged
    assert 'stamped{r="x"} 4 1700000000000' in merged


def test_a_label_that_the_sample_has_already_is_kept_as_exported() -> None:
    text = '# TYPE up gauge\nup{job="replica=\\"x\\"",replica="own"} 1\n'
    [(name, labels)] = samples(merge([Exposition({"replica": "a"}, text)]))
    assert name == "up"
    assert dict(labels) == {"job": 'replica="x"', "exported_replica": "own", "replica": "a"}


def test_a_conflicting_type_leaves_the_first_process_alone() -> None:
    first, second = "# TYPE x counter\nx 1\n", "# TYPE x gauge\nx 2\n"
    merged = merge([Exposition({"r": "a"}, first), Exposition({"r": "b"}, second)])
    assert merged == '# TYPE x counter\nx{r="a"} 1\n'


def test_nothing_merges_to_nothing() -> None:
    assert merge([]) == ""
    assert merge([Exposition({}, "")]) == ""


@pytest.mark.parametrize("line", ["no value", "name{a=1} 2", '{a="b"} 1', 'name{a="b" 1', "<html>"])
def test_a_line_that_is_no_sample_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="not a line of the Prometheus text format"):
        merge([Exposition({}, line)])


def test_requests_and_fallbacks_are_counted_by_reason() -> None:
    registry = CollectorRegistry()
    metrics = ReplicaMetrics(registry)
    metrics.count("finance-tfns", "matched")
    metrics.count("base", "base:low-confidence")
    value = registry.get_sample_value
    assert value("learnware_requests_total", {"learnware": "finance-tfns", "reason": "matched"}) == 1
    assert value("learnware_requests_total", {"learnware": "base", "reason": "base:low-confidence"}) == 1
    assert value("learnware_fallbacks_total", {"reason": "base:low-confidence"}) == 1
    assert value("learnware_fallbacks_total", {"reason": "matched"}) is None


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def scrape(scraper: Scraper) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return samples(await scraper.scrape())


def success(replica: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return "learnware_scrape_success", frozenset({("deployment", "engine"), ("replica", replica)})


FAILURES = ("learnware_scrape_failures", frozenset({("deployment", "engine")}))


def replica_text(name: str) -> str:
    return f"{REPLICA_LINE}{name}\n{process_text(1)}"


async def test_a_replica_that_no_longer_answers_is_reported_until_it_is_forgotten() -> None:
    answers: list[str | BaseException] = [replica_text("a"), replica_text("b")]

    async def collect() -> list[str | BaseException]:
        return answers

    clock = Clock()
    scraper = Scraper({"engine": collect}, None, clock)
    assert (await scrape(scraper))[success("b")] == 1
    clock.now, answers[1] = 15, TimeoutError()
    second = await scrape(scraper)
    assert (second[success("a")], second[success("b")], second[FAILURES]) == (1, 0, 1)
    clock.now += FORGET_AFTER_S
    answers.pop()
    third = await scrape(scraper)
    assert success("b") not in third
    assert third[success("a")] == 1


@pytest.mark.parametrize("broken", ["", "no replica line\n", f"{REPLICA_LINE}b\n<html>\n"])
async def test_a_broken_answer_costs_its_own_series_only(broken: str) -> None:
    async def collect() -> list[str | BaseException]:
        return [replica_text("a"), broken]

    merged = await scrape(Scraper({"engine": collect}, None))
    assert merged["plain", frozenset({("deployment", "engine"), ("replica", "a")})] == 1
    assert merged[FAILURES] == 1


async def test_a_dead_deployment_and_a_dead_exporter_leave_the_others() -> None:
    async def alive() -> list[str | BaseException]:
        return [replica_text("a")]

    async def dead() -> list[str | BaseException]:
        raise RuntimeError("no running replica")

    merged = await scrape(Scraper({"router": dead, "engine": alive}, "http://127.0.0.1:9/metrics"))
    assert merged[success("a")] == 1
    for name in ("router", "haproxy"):
        assert merged["learnware_scrape_failures", frozenset({("deployment", name)})] == 1
