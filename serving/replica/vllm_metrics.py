"""Keeps vLLM's own metrics bounded."""

import logging
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry

logger = logging.getLogger("ray.serve")

_GAUGE = "gauge_lora_info"


def leave_adapter_mixes_out(engine_client: Any, registry: CollectorRegistry = REGISTRY) -> None:
    """Takes the metric `vllm:lora_requests_info` out of an `AsyncLLM`'s statistics.

    vLLM 0.29 names all running and all waiting adapters in its labels, so each mix of adapters is a time series of its
    own, kept for ever: megabytes after some thousand steps. `learnware_adapter_tier` and `learnware_waiting_requests`
    say what it says.
    """
    manager = engine_client.logger_manager
    found = [one for one in (manager.stat_loggers if manager is not None else ()) if getattr(one, _GAUGE, None)]
    for one in found:
        registry.unregister(getattr(one, _GAUGE))
        setattr(one, _GAUGE, None)
    if manager is not None and not found:
        logger.warning("vLLM's statistics have no %s: if adapter mixes are a metric elsewhere, it is unbounded", _GAUGE)
