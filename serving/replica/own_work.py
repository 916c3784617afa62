"""All that a replica does of its own accord on idle engine time: second answers, and scores of right answers."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from serving.config_evaluation import ShadowSettings
from serving.paging.gate import AdapterGate
from serving.ray_internals import add_middleware
from serving.replica.admission import Admission
from serving.replica.idle_work import IdleWork, Room
from serving.replica.likelihood import Likelihood
from serving.replica.middleware import Hold
from serving.replica.shadowing import Compares, Shadowing
from specs.errors import AdapterUnavailable, InvalidInput


class OwnWork:
    """The idle work of one replica, begun when it is made, in the running event loop."""

    def __init__(
        self,
        engine: Any,
        gate: AdapterGate,
        admission: Admission,
        lora: Callable[[str], Any],
        hold: Hold,
        settings: ShadowSettings,
    ) -> None:
        """Makes it for vLLM's `AsyncLLM` behind this gate; `lora` finds an adapter by its engine name, `hold` leases
        it."""
        seats = engine.vllm_config.scheduler_config.max_num_seqs
        self._idle_work = IdleWork(Room(gate, seats), settings.most_waiting)
        self._likelihood = Likelihood(engine, self._idle_work, admission, lora, hold)
        self._admission, self._hold, self._settings = admission, hold, settings
        gate.on_entry = self._idle_work.look
        self._idle_work.start()

    def add_shadow(self, app: FastAPI, recorder: Compares, registry: CollectorRegistry) -> None:
        """Adds what has requests answered a second time to vLLM's application, right before it."""
        add_middleware(
            app,
            Shadowing,
            settings=self._settings,
            admission=self._admission,
            hold=self._hold,
            idle_work=self._idle_work,
            recorder=recorder,
            registry=registry,
        )

    async def likelihood(self, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the scores of answers (`Likelihood.score`), or `why_not` where there can be none; None where the
        engine has no time for them now."""
        try:
            return await self._likelihood.score(asked)
        except (AdapterUnavailable, InvalidInput) as error:
            return {"why_not": str(error)}

    async def close(self) -> None:
        """Ends it."""
        await self._idle_work.close()
