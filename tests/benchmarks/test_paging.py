"""What `benchmarks.paging` makes of its measurements, and what it kept of a run that was cut."""

import json

import pytest

from benchmarks.common.prompts import KINDS
from benchmarks.common.report import page, result
from benchmarks.common.tasks import task_of
from benchmarks.paging import loads as paging_loads
from benchmarks.paging.measure import MAIN, Kept, PagingCell, Size, make_load, run, summarise
from benchmarks.paging.plots import plots_of
from benchmarks.paging.sides import COUNTS, RANK, make_learnwares
from specs.learnware import load_learnwares


def one(throughput: float, **values: float) -> dict[str, float]:
    counts = dict.fromkeys(COUNTS, 0)
    times = {"requests_per_s": 4.0, "ttft_p50": 1.0, "ttft_p99": 2.0, "coldest_decile_ttft_p99": 3.0}
    return {"throughput": throughput, "loads_per_request": 0.5, **times, **counts, **values}


def write_model(folder):
    config = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    others = {"model_type": "llama", "num_hidden_layers": 2, "vocab_size": 16}
    (folder / "config.json").write_text(json.dumps(config | others))


@pytest.fixture
def kept(tmp_path):
    kept = Kept(tmp_path / "kept")
    worse = PagingCell(100, 4, 0.3, 4.0, 100)
    for cell, ours in ((MAIN, (120.0, 130.0, 110.0)), (worse, (95.0, 97.0, 99.0))):
        rounds = {"ours": [one(value) for value in ours], "stock": [one(100.0)] * 3}
        kept.write(cell.name, {"cell": cell._asdict(), "rounds": rounds})
    kept.write("plain", {"cell": MAIN._asdict(), "rounds": {"ours": [one(120.0)], "plain": [one(50.0)]}})
    sides = {"ours": [one(1, ttft_p99=1.0)], "stock": [one(1, ttft_p99=2.0)]}
    kept.write("rate", {"rate": 3.0, "rounds": sides})
    kept.write(
        "cold-start",
        {
            "ours": one(1, loads=60, needed=60, loads_per_request=0.4),
            "stock": one(1, loads=110, needed=60, loads_per_request=0.8, disk_reads_in_step=70),
        },
    )
    busy = {"cold_ttft_p99": 6.0, "ttft_p99": 3.0}
    kept.write("busy", {"ours": busy, "stock": busy | {"cold_ttft_p99": 30.0}})
    gaps = {"cold": [0.1] * 99 + [0.2], "control": [0.1] * 100}
    kept.write("gaps", {"ours": gaps, "stock": gaps})
    rates = {"base": [4.0, 5.0], "one": [3.6, 4.5], "eight": [3.0, 4.0]}
    kept.write("operators", {"decode": rates, "prefill": rates | {"eight": [2.0, 2.5]}})
    kept.write("many", {"5": [one(100.0), one(120.0)], "1000": [one(60.0), one(72.0)]})
    kept.write("many-s48", {"5": [one(100.0), one(120.0)], "1000": [one(90.0), one(108.0)]})
    rounds = {"ours": [one(100.0)], "without the queue": [one(80.0, loads_per_request=1.0)]}
    kept.write("without the queue", {"cell": MAIN._asdict(), "rounds": rounds})
    return kept


def test_figures_are_ratios_of_ours_to_stock(kept):
    figures, _, rows = summarise(kept)
    assert figures["throughput_ratio_s8"] == pytest.approx(1.2)
    assert figures["throughput_ratio_min"] == pytest.approx(0.97)
    assert figures["throughput_ratio_s8_stock_ops"] == pytest.approx(2.4)
    assert figures["ttft_p99_ratio_s8"] == pytest.approx(0.5)
    assert figures["loads_over_needed"] == 1
    assert figures["loads_over_needed_stock"] == pytest.approx(110 / 60)
    assert figures["loads_per_request_ratio"] == pytest.approx(0.5)
    assert (figures["disk_reads_in_step"], figures["disk_reads_in_step_stock"]) == (0, 70)
    assert (figures["cold_wait_ratio"], figures["cold_wait_ratio_stock"]) == (2, 10)
    assert figures["token_gap_ratio"] > 1
    assert (figures["lora_over_base_1"], figures["lora_over_base_8"]) == pytest.approx((0.9, 0.775))
    assert figures["lora_over_base_8_prefill"] == pytest.approx(0.5)
    assert (figures["n1000_over_n5"], figures["n1000_over_n5_s8"]) == pytest.approx((0.9, 0.6))
    assert figures["throughput_over_ours_without_the_queue"] == pytest.approx(0.8)
    assert figures["loads_over_ours_without_the_queue"] == 2
    assert len(rows) == 4


@pytest.mark.slow
def test_cells_that_were_kept_are_not_measured_again(kept, tmp_path, monkeypatch):
    from benchmarks.paging import measure as paging

    monkeypatch.setattr(paging, "GRID", [MAIN])
    monkeypatch.setattr(paging, "SIXTEEN_OVER_EIGHT", MAIN)

    def no_server(*_args, **_kwargs):
        raise AssertionError("a server was started")

    monkeypatch.setattr(paging, "running", no_server)
    size = Size(3, 96)
    run(kept, [8], size, tmp_path, "no model is needed")
    (kept.folder / "busy.json").unlink()
    write_model(tmp_path)
    with pytest.raises(AssertionError, match="a server was started"):
        run(kept, [8], size, tmp_path, str(tmp_path))


@pytest.mark.slow
def test_the_page_shows_the_plots(kept):
    figures, details, _ = summarise(kept)
    content = json.loads(json.dumps(result("paging", figures, {"cpu": "<any>"}, details)))
    images = plots_of(content)
    assert len(images) == 4
    assert all(image.startswith(b"\x89PNG") for image in images)
    shown = page(content, images)
    assert shown.count("data:image/png;base64,") == 4
    assert "throughput_ratio_s8" in shown


def test_the_adapters_are_valid_learnwares_under_ids_of_their_own(tmp_path):
    ids = make_learnwares(tmp_path, 14)
    assert [learnware.id for learnware in load_learnwares(tmp_path)] == sorted(ids)
    assert len(set(ids)) == 14


def test_the_largest_adapters_are_valid_learnwares_of_a_model(tmp_path):
    write_model(tmp_path)
    ids = make_learnwares(tmp_path / "learnwares", 2, tmp_path)
    assert [learnware.id for learnware in load_learnwares(tmp_path / "learnwares")] == sorted(ids)
    files = [(tmp_path / "learnwares" / name / "adapter_model.safetensors").read_bytes() for name in ids]
    assert files[0] != files[1]
    (learnware, _) = load_learnwares(tmp_path / "learnwares")
    assert learnware.rank == RANK
    assert len(learnware.layers) == 2 * 7
    assert learnware.layers["model.layers.1.self_attn.k_proj"] == (8, 4)


def test_a_load_is_the_same_for_both_sides_and_repeats_no_prompt():
    ids = [f"adapter-{number}" for number in range(100)]
    load = make_load(ids, MAIN, 60, seed=1)
    assert load == make_load(ids, MAIN, 60, seed=1)
    assert len({request.prompt for request in load}) == 60
    assert len({request.model for request in load}) > 10


def write_rows(data, each):
    for kind in KINDS:
        file = data / f"{task_of(kind.learnware)}.test.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        prompts = [f"{kind.learnware} {number}" for number in range(each)] + ["long " * paging_loads.PROMPT_CHARACTERS]
        file.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in prompts))


def test_prompts_are_rows_of_the_tasks_in_turn_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(paging_loads, "data_folder", lambda: tmp_path)
    write_rows(tmp_path, 3)
    source, prompts = paging_loads.task_prompts(len(KINDS) + 1)
    assert source == "rows of tasks"
    assert prompts == [*(f"{kind.learnware} 0" for kind in KINDS), f"{KINDS[0].learnware} 1"]
    with pytest.raises(ValueError, match=r"has 24 rows of at most 600 characters; 25 are needed"):
        paging_loads.task_prompts(25)


def test_prompts_are_made_where_no_task_data_is(monkeypatch):
    monkeypatch.setattr(paging_loads, "data_folder", lambda: None)
    source, prompts = paging_loads.task_prompts(100)
    assert source == "made"
    assert len(set(prompts)) == 100
