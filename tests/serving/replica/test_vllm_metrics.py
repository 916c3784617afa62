"""vLLM's own statistics, fed with the adapters of many steps."""

import logging
import random
from types import SimpleNamespace

import pytest
from prometheus_client import REGISTRY, generate_latest
from vllm.config import DeviceConfig, LoRAConfig, ModelConfig, VllmConfig
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.prometheus import unregister_vllm_metrics
from vllm.v1.metrics.stats import SchedulerStats

from serving.base_model import ensure_base_model
from serving.paths import cache_folder
from serving.replica.vllm_metrics import leave_adapter_mixes_out

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning"),  # vLLM's configuration uses it
]

STEPS, ADAPTERS = 10_000, 100
BOUND = 100_000
"""Bytes of all of vLLM's metrics of one engine."""


@pytest.fixture
def statistics():
    config = VllmConfig(
        model_config=ModelConfig(model=str(ensure_base_model("embedded", cache_folder(), print))),
        lora_config=LoRAConfig(max_lora_rank=16, max_loras=8),
        device_config=DeviceConfig("cpu"),
    )
    yield PrometheusStatLogger(config)
    unregister_vllm_metrics()


def run(statistics: PrometheusStatLogger, steps: int) -> int:
    """Records steps with random mixes of adapters; returns the bytes of the metrics then."""
    generator = random.Random(0)
    for _ in range(steps):
        running = generator.sample(range(ADAPTERS), 8)
        waiting = generator.sample(range(ADAPTERS), generator.randrange(20))
        stats = SchedulerStats(
            running_lora_adapters={f"learnware-{number}@1": 1 for number in running},
            waiting_lora_adapters={f"learnware-{number}@1": 1 for number in waiting},
        )
        statistics.record(stats, None)
    return len(generate_latest(REGISTRY))


def test_ten_thousand_mixes_of_adapters_add_nothing(statistics):
    assert run(statistics, 1000) > 3 * BOUND, "vLLM bounds the metric itself: serving.replica.vllm_metrics can go"
    leave_adapter_mixes_out(SimpleNamespace(logger_manager=SimpleNamespace(stat_loggers=[statistics])))
    size = run(statistics, STEPS)
    assert size < BOUND
    text = generate_latest(REGISTRY).decode()
    assert "vllm:num_requests_running" in text
    assert "lora_requests_info" not in text


def test_statistics_that_have_no_such_metric_any_more_are_told_of(caplog):
    with caplog.at_level(logging.WARNING):
        leave_adapter_mixes_out(SimpleNamespace(logger_manager=SimpleNamespace(stat_loggers=[object()])))
        assert "gauge_lora_info" in caplog.text
        caplog.clear()
        leave_adapter_mixes_out(SimpleNamespace(logger_manager=None))
        assert not caplog.text
