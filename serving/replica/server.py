"""The Ray Serve deployment of an engine replica: Ray Serve LLM's server with learnwares registered, the middleware in
front of vLLM's application, and the project's metrics beside vLLM's."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.routing import APIRoute
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse
from vllm.entrypoints.openai.models.serving import OpenAIServingModels

from router.placement import DISK
from router.ray_internals import keep_grpc_on_loopback, replica_line
from serving.access.keyring import Keyring
from serving.config_evaluation import ShadowSettings
from serving.decisions.open_record import open_record
from serving.decisions.recorder import Recorder
from serving.names import MARKET, MARKET_APPLICATION, ROUTER, is_allowed
from serving.openai_errors import error_response
from serving.paging.gate import AdapterGate, open_gate
from serving.paging.inflight import TimeLimits
from serving.ray_internals import EngineServer, LLMConfig, add_middleware
from serving.replica.adapter_registry import AdapterRegistry
from serving.replica.admission import Admission, Names
from serving.replica.answering import Answering
from serving.replica.anthropic_errors import AnthropicErrors
from serving.replica.front_door import add_front_door
from serving.replica.limits import Limits, ReplicaLimits
from serving.replica.load_failures import LoadFailures
from serving.replica.middleware import LearnwareMiddleware
from serving.replica.model_list import model_objects
from serving.replica.off_task_meter import off_task_meter
from serving.replica.own_work import OwnWork
from serving.replica.paging_metrics import PagingCollector, PagingState
from serving.replica.prompt_logprobs import PromptLogprobs
from serving.replica.recording import Recording
from serving.replica.request_body import EXPLAIN_PATH
from serving.replica.request_metrics import NOT_LOADED, ReplicaMetrics
from serving.replica.room import shorten_answers_to_the_room
from serving.replica.trial import probe
from serving.replica.usage_metrics import UsageMetrics
from serving.replica.verification import without_wrong_values
from serving.replica.vllm_metrics import leave_adapter_mixes_out
from serving.replica.warm_up import WarmUp
from serving.replica.watchdog import Watchdog, kill_engine
from serving.tracing.logs import begin_json_logs, wanted as json_logs_wanted
from serving.tracing.replica import adapter_wait, add_traces, prepare_vllm
from serving.tracing.spans import TraceOptions, Tracing
from specs.errors import AdapterUnavailable, InvalidLearnware, Overloaded, UnknownModel
from specs.market.catalogue import Catalogue, Entry
from specs.market.checks import Requirements
from specs.market.follower import Follower
from specs.market.startup import current_catalogue
from specs.market.trial import Trial


class ReplicaOptions(NamedTuple):
    """Options of an engine replica besides Ray's own configuration."""

    base: str
    """The base model's id."""
    auto_names: tuple[str, ...]
    learnwares: Path
    """Folder of learnwares that never change; it is read where there is no market."""
    market: Path | None
    """The market's folder; None serves `learnwares`."""
    secret: bytes
    """Key of the HMAC that signs the router's choices."""
    on_loopback: bool
    """If true, the replica's gRPC server listens on loopback only."""
    base_on_load_failure: bool = False
    """If true, the base model answers also requests that name a learnware whose adapter cannot be loaded; otherwise
    these fail."""
    base_without_choice: bool = False
    """If true, the base model answers when no router has chosen; otherwise such requests are refused."""
    other_secrets: tuple[bytes, ...] = ()
    """Further keys whose signatures are accepted, while one takes the place of another."""
    requirements: Requirements | None = None
    """The requirements on learnwares of a folder without a market; None leaves no valid one out."""
    keyring: Keyring = Keyring()
    """The keys that hold."""
    allowed: Callable[[str], bool] = is_allowed
    """Whether clients may reach a path."""
    times: TimeLimits = TimeLimits()
    """How long a request may take until its first token and between two tokens."""
    stuck_step_s: float = 120.0
    """Seconds without a finished step after which the engine is taken for hung."""
    limits: ReplicaLimits | None = None
    """The bounds of requests; None for none."""
    record: Callable[[CollectorRegistry], Recorder] | None = None
    """Makes what takes the records of requests, with its metrics in the registry; None records nothing."""
    traces: TraceOptions | None = None
    """The collector of spans, and how many are sampled; None: there are no spans."""
    shadow: ShadowSettings = ShadowSettings()
    """Which requests are answered a second time. It needs `record`."""


class LearnwareServer(EngineServer):
    """One engine replica. It answers `/v1/chat/completions` and the rest of vLLM's application; it chooses no learnware
    itself."""

    _gate: AdapterGate | None = None
    """The admission gate, None until the engine runs."""
    _watchdog: Watchdog | None = None
    """The watchdog, None until the engine runs."""
    _verifying: asyncio.Task[None] | None = None
    _recorder: Recorder | None = None
    _own_work: OwnWork | None = None
    _tracing: Tracing | None = None

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, llm_config: LLMConfig, *, options: ReplicaOptions, **arguments: Any
    ) -> None:
        if options.on_loopback:
            keep_grpc_on_loopback()
        self._options = options
        begin_json_logs()
        if options.traces is not None:
            prepare_vllm()
        self._catalogue = current_catalogue(options.market, options.learnwares, options.requirements)
        self._admission = Admission(Names(options.base, frozenset(options.auto_names), {}))
        self._registry = CollectorRegistry()
        self._metrics = ReplicaMetrics(self._registry)
        self._registry.register(PagingCollector(self._paging))
        await super().__init__(llm_config, **arguments)

    async def __serve_build_asgi_app__(self) -> FastAPI:
        app: FastAPI = await super().__serve_build_asgi_app__()
        options = self._options
        self._models: OpenAIServingModels = app.state.openai_serving_models
        engine = self._models.engine_client
        self._gate = await open_gate(engine, options.times)
        self._gate.on_usage = UsageMetrics(self._registry, options.base).observe
        self._watchdog = Watchdog(
            self._gate,
            errored=lambda: engine.errored,
            kill=lambda: kill_engine(engine),
            stuck_step_s=options.stuck_step_s,
        )
        self._watchdog.start()
        leave_adapter_mixes_out(engine)
        prompt_logprobs = PromptLogprobs()
        self._adapters = AdapterRegistry(self._models, self._admission, prompt_logprobs)
        self._meter = await asyncio.to_thread(off_task_meter, engine, self._gate)
        self._failures = LoadFailures(None if options.market is None else _tell_the_market)
        self._warm_up = WarmUp(self._gate, self._hold, lambda: self._adapters.served)
        self._metrics.watch_unserved(self._unserved)
        await self._follow(self._catalogue)
        if options.market is not None:
            self._follower = Follower(options.market, self._follow, self._catalogue.sequence)
            self._follower.start()
            self._metrics.watch_market(lambda: self._follower.sequence, lambda: self._follower.fault is not None)
        else:
            self._verifying = asyncio.create_task(self._verify())
        # Starlette takes the first route that matches, so ours go before vLLM's own `/v1/models`.
        app.router.routes[:0] = [
            APIRoute("/v1/models", self._list_models, methods=["GET"]),
            APIRoute("/v1/models/{model:path}", self._one_model, methods=["GET"]),
            APIRoute(EXPLAIN_PATH, self._explain, methods=["POST"]),
        ]
        if options.record is not None:
            self._recorder = options.record(self._registry)
            self._recorder.start()
        # from the outermost to the innermost, behind the front door
        keys, replica = (options.secret, *options.other_secrets), serve.get_replica_context().replica_id.unique_id
        add_middleware(app, Recording, recorder=self._recorder, replica=replica, secrets=keys)
        add_middleware(app, AnthropicErrors)
        add_middleware(app, Answering, failure=lambda: self._failure)
        if options.limits is not None:
            shorten_answers_to_the_room()
            width = engine.vllm_config.scheduler_config.max_num_seqs
            limits = options.limits._replace(max_num_seqs=width)
            add_middleware(app, Limits, settings=limits, engine=self._gate, able=lambda: self._failure is None)
        add_middleware(
            app,
            LearnwareMiddleware,
            admission=self._admission,
            secret=options.secret,
            other_secrets=options.other_secrets,
            metrics=self._metrics,
            hold=self._hold,
            base_on_load_failure=options.base_on_load_failure,
            base_without_choice=options.base_without_choice,
            prompt_logprobs=prompt_logprobs,
        )
        if self._recorder is not None and self._gate.residency.scheduler is not None:  # which idle work gives way in
            self._own_work = OwnWork(
                engine, self._gate, self._admission, self._adapters.request, self._hold, options.shadow
            )
            if options.shadow.share:
                self._own_work.add_shadow(app, self._recorder, self._registry)
        add_front_door(app, options.keyring, options.allowed)
        if options.traces is not None or json_logs_wanted():
            self._tracing = add_traces(app, options.traces)
        return app

    @property
    def _failure(self) -> str | None:
        """Why the engine cannot answer any more, None while it can."""
        return None if self._watchdog is None else self._watchdog.failure

    async def check_health(self) -> None:
        """Fails when the engine cannot answer any more, on which Ray replaces the replica."""
        await super().check_health()
        if self._watchdog is not None:
            self._watchdog.check()

    async def _follow(self, catalogue: Catalogue) -> None:
        await self._adapters.apply(catalogue)
        self._warm_up.begin()

    async def _verify(self) -> None:
        """Reads the weights of a plain folder's learnwares in the background, and serves those no more whose values are
        wrong. (A market has read them when they were submitted.)"""
        async for catalogue in without_wrong_values(self._catalogue):
            await self._adapters.apply(catalogue)

    def _unserved(self) -> dict[str, int]:
        served = self._admission.names.learnwares.values()
        failed = self._adapters.left_out + self._failures.count(served)
        return {**self._adapters.unserved, NOT_LOADED: failed}

    def _paging(self) -> PagingState | None:
        if self._gate is None:
            return None
        return PagingState(self._gate.residency, self._admission.names.learnwares.values(), self._gate.waiting)

    def _hold(self, engine_name: str) -> AbstractAsyncContextManager[None]:
        request, entry = self._adapters.request(engine_name), self._adapters.entry(engine_name)
        if request is None or entry is None or self._gate is None:
            return nullcontext()
        if (record := open_record.get()) is not None:
            record.tier = self._gate.residency.tiers.get(engine_name, DISK)
        return adapter_wait(engine_name, self._failures.watching(entry, self._gate.hold(request)))

    async def _list_models(self) -> JSONResponse:
        return JSONResponse({"object": "list", "data": await self._cards()})

    async def _one_model(self, model: str) -> JSONResponse:
        for card in await self._cards():
            if card["id"] == model:
                return JSONResponse(card)
        unknown = UnknownModel(f"The model {model!r} does not exist. GET /v1/models lists every id.")
        return error_response(unknown, "/v1/models")

    async def _cards(self) -> list[dict[str, Any]]:
        """Returns the model objects of every value that `model` may hold."""
        listed = await self._models.show_available_models()
        template = listed.data[0].model_dump()
        return model_objects(template, self._options.base, self._options.auto_names, self._adapters.cards)

    async def _explain(self, request: Request) -> JSONResponse:
        """Answers with the router's choice for a request body, ranked candidates included, without generating."""
        router = serve.get_deployment_handle(ROUTER, app_name=serve.get_replica_context().app_name)
        try:
            return JSONResponse(await router.explain.remote(await request.body()))
        except Overloaded as refusal:  # as Ray raises it: with the router's own one as its cause
            return error_response(getattr(refusal, "cause", refusal), EXPLAIN_PATH)

    async def market_reached(self, sequence: int) -> int:
        """Returns the catalogue's number when change number `sequence` of the market is in effect on this replica."""
        return await self._follower.reached(sequence)

    async def probe(
        self,
        learnware_id: str,
        version: int,
        sha256: str,
        folder: str,
        domain: str,
        examples: Sequence[str],
        labels: Sequence[str],
    ) -> Trial:
        """Loads a learnware that is not served yet, tries it (`serving.replica.trial`) and measures it off its task. It
        is unloaded again in any case: what is served later has another engine name, since its capability is part of its
        files."""
        entry = Entry(learnware_id, version, sha256, Path(folder))
        try:
            request = await self._adapters.load(entry)
        except InvalidLearnware as error:
            return Trial(str(error))
        assert self._gate is not None  # the engine is asked once it serves
        try:
            async with self._gate.hold(request):
                refusal, notes = await probe(self._meter, request, examples, labels)
                if refusal is not None:
                    return Trial(refusal)
                return Trial(None, await self._meter.measure(request, domain, examples, labels), notes)
        except (AdapterUnavailable, InvalidLearnware) as error:
            return Trial(str(error))
        finally:
            await self._adapters.unload(entry.engine_name)

    async def record_routing_stats(self) -> dict[str, Any]:
        """Returns the routing statistics that Serve's controller asks for every `serving.app.ROUTING_STATS_PERIOD_S`
        seconds and hands to the routers.

            adapters   the tier of each adapter in memory, "device" or "host", by its engine name
            slots      the number of adapters that the device holds at most
            running    the number of requests in the engine's batch
            waiting    the number of requests that are not in it yet
        """
        stats: dict[str, Any] = await super().record_routing_stats()
        if self._gate is None:
            return stats
        residency = self._gate.residency
        running = self._gate.entered
        if residency.scheduler is not None:
            running = min(running, residency.scheduler["running"])  # the report may be a moment old
        return stats | {
            "adapters": dict(residency.tiers),
            "slots": residency.slots,
            "running": running,
            "waiting": self._gate.waiting + self._gate.entered - running,
        }

    async def likelihood(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        """Scores answers on idle engine time (`serving.replica.own_work.OwnWork.likelihood`)."""
        if self._own_work is None:
            return {"why_not": "This replica has no idle time: it records nothing, or its engine schedules by itself."}
        return await self._own_work.likelihood(asked)

    async def prefetch(self, engine_name: str) -> bool:
        """Starts reading an adapter into host memory for a request that is to come, and returns at once. Returns False
        when this replica serves no such version."""
        request = self._adapters.request(engine_name)
        if request is None or self._gate is None:
            return False
        self._gate.prefetch(request)
        return True

    async def __del__(self) -> None:  # Ray Serve awaits it when it stops the replica
        if self._own_work is not None:
            await self._own_work.close()
        if self._gate is not None:
            self._warm_up.end()
            if self._watchdog is not None:
                self._watchdog.stop()
            if self._verifying is not None:
                self._verifying.cancel()
            await self._gate.close()
        if self._recorder is not None:
            await self._recorder.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.end)
        await super().__del__()

    async def metrics_text(self) -> str:
        """Returns this replica's metrics and vLLM's, as Prometheus text. It is written beside the loop that streams
        tokens."""
        return await asyncio.to_thread(
            lambda: replica_line() + generate_latest(REGISTRY).decode() + generate_latest(self._registry).decode()
        )


async def _tell_the_market(entry: Entry, reason: str) -> None:
    handle = await asyncio.to_thread(serve.get_deployment_handle, MARKET, app_name=MARKET_APPLICATION)
    await handle.not_loaded.remote(entry.id, entry.sha256, reason)
