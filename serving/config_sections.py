"""The sections of the configuration (`serving.config`), each with its keys, their descriptions and defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from router.conversation import ConversationSettings
from router.placement import PlacementSettings
from router.settings import SelectionSettings
from router.wrappers import RequestSettings
from serving.base_model import EMBEDDED, base_model_id
from serving.paging.settings import PagingSettings
from serving.paths import STARTER_FOLDER

PAGING = PagingSettings()
MIB = 1 << 20
ROUTER_BUDGET_MS = 1500.0
"""Longest that wait and decision may take together, ms. The edge waits 2 s for the router's answer
(`serving.edge.router_rules`) and then takes it for lost; half a second is left for reading, placing and both ways
under the load that makes a line.
"""
STARTER = "starter"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def http_url(what: str, example: str) -> AfterValidator:
    """Returns the check of a value that must be the URL of such a thing, over HTTP or HTTPS."""

    def checked(url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(
                f"must be the URL of {what}, which begins with http:// or https://, such as {example}, and not {url!r}"
            )
        return url

    return AfterValidator(checked)


class HTTPSettings(Section):
    """The address at which clients reach the stack."""

    host: str = Field(
        "127.0.0.1",
        description="Address on which the OpenAI endpoint and /metrics listen; 0.0.0.0 opens them to the network. On "
        "one machine everything else of the stack listens on 127.0.0.1, whatever stands here.",
    )
    port: int = Field(
        8000,
        ge=1,
        le=65535,
        description="Port of the OpenAI endpoint. The stack's other ports follow from it and reach 1,101 beyond it, so "
        "one above 64,434 is refused at start.",
    )
    insecure: bool = Field(
        False,
        description="Allows a host other than loopback without any API key: whoever reaches the port is answered, and "
        "all share one tenant. Else such a start is refused.",
    )
    max_body_mib: float = Field(
        4.0,
        gt=0,
        description="Largest body of a request to the endpoint, MiB, counted while it is read; a larger one is "
        "answered 413. Uploads to the market have a limit of their own (market.max_upload_mib).",
    )
    header_wait_s: int = Field(
        10, ge=1, description="Seconds in which a request's header must have arrived; a slower one is answered 408."
    )
    body_wait_s: int = Field(
        30, ge=1, description="Seconds in which a request's body must have arrived; a slower one is answered 408."
    )
    max_connections_per_source: int = Field(
        1024,
        ge=1,
        description="Connections that one source address may have open; further ones are refused. Behind a proxy, "
        "name it in trusted_proxies, or all its clients are one source.",
    )
    trusted_proxies: tuple[str, ...] = Field(
        (),
        description="Networks (CIDR) of proxies in front: the last address in their X-Forwarded-For that is not one "
        "of them is the source. What others send in that header is not believed.",
    )
    proxy_protocol: bool = Field(
        False,
        description="Proxies of trusted_proxies begin each connection with the PROXY protocol, and the source is "
        "read from it.",
    )
    tls_certificate: str | None = Field(
        None,
        description="PEM file with the certificate, its chain and its private key: the endpoint then speaks TLS. null: "
        "plain HTTP.",
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description="Origins whose pages may call the endpoint from a browser, such as https://chat.example.org; `*` "
        "allows every page. Empty: no CORS header is sent.",
    )
    more_paths: tuple[str, ...] = Field(
        (),
        description="Further paths of vLLM's application that clients may reach, with a key; a trailing / means all "
        "below. Others than the documented ones are answered 404.",
    )


class BaseModelSettings(Section):
    """The base model: the one model that every engine replica holds."""

    source: str = Field(
        EMBEDDED,
        description="`embedded` (SmolLM2-135M-Instruct, from a Python package, without network), a local folder with a "
        "model in safetensors, or the id of one on the Hugging Face hub, which is downloaded once.",
    )
    id: str | None = Field(
        None,
        description="Name of the base model for clients and learnwares; a learnware for another one is refused. null: "
        "the embedded model's name, the folder's, or the hub id.",
    )
    aliases: tuple[str, ...] = Field(
        (),
        description="Other names that mean this base model in learnwares, such as the folder in which it was trained. "
        "Owner, case and quantisation are passed over in any case; where every layer fits, another name is only noted.",
    )
    revision: str | None = Field(
        None,
        description="Commit of a hub id: it is what is downloaded, and what learnwares must be for: one that names "
        "another (but `main`) is refused. null: the hub's default branch, and whatever learnwares name is accepted.",
    )

    @property
    def served_id(self) -> str:
        return self.id or base_model_id(self.source)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of this model other than the served one: the aliases, and that of its source."""
        return (*self.aliases, base_model_id(self.source))


class LearnwareSettings(Section):
    """The learnwares that a stack begins with."""

    folder: str = Field(
        STARTER,
        description="`starter` (those that come with the package), or a folder with one sub-folder for each learnware. "
        "A new market begins with these; where market.path holds a market already, they are not read.",
    )

    @property
    def path(self) -> Path:
        return STARTER_FOLDER if self.folder == STARTER else Path(self.folder).expanduser().resolve()


class MarketSettings(Section):
    """The living market: learnwares that come and go while the stack runs, and uploaded task specifications.

    Without `path` a stack on one machine makes a market at each start from `learnwares.folder` and forgets it when it
    stops; on a cluster, whose nodes share no such folder, it then serves `learnwares.folder` as it is.
    """

    path: str | None = Field(
        None,
        description="Folder that keeps the market. The first start fills it from learnwares.folder; from then on the "
        "market alone says what is served. On several nodes: a folder that all of them see; only one writes. null: no "
        "market outlasts the stack.",
    )
    admin_key: str | None = Field(
        None,
        min_length=1,
        description="Bearer token for changes over HTTP. null: that of the environment variable LEARNWARE_ADMIN_KEY; "
        "without either, a stack on one machine makes one for its run, which only its owner's command line can read, "
        "and a cluster refuses changes over HTTP.",
    )
    max_upload_mib: float = Field(
        256.0,
        gt=0,
        description="Largest learnware that HTTP accepts, MiB of its zip file. A larger one is answered 413.",
    )
    vector_basis: str | None = Field(
        None,
        description="File of a parameter vector (`learnware-serving spec make-vector`) made in the basis that "
        "learnwares' vectors must have: proxy, seed and recipe. null: the embedded proxy with the command's own "
        "defaults.",
    )

    task_specs_per_key: int = Field(
        100,
        ge=1,
        description="Task specifications that may be kept for one API key; a further one is answered 403. Without keys "
        "there is no such limit, and 10,000 altogether in any case.",
    )
    task_specs_days: float = Field(
        90.0,
        gt=0,
        description="Days after which a task specification goes that was neither posted nor used.",
    )

    @property
    def folder(self) -> Path | None:
        return None if self.path is None else Path(self.path).expanduser().resolve()


class RouterSettings(Section):
    """The router: which requests ask it to choose, how it chooses a learnware, and when the base model answers
    instead."""

    auto_names: tuple[str, ...] = Field(
        ("auto",),
        min_length=1,
        description="Values of `model` that mean: choose for me. None may be the id of the base model or of a "
        "learnware.",
    )
    replicas: int = Field(2, ge=1, description="Router processes on each node; with two, losing one loses no request.")
    deadline_ms: float = Field(
        500.0,
        gt=0,
        description="The router's own time for one choice, ms, from when it begins on it; past it the base model "
        "answers. A choice takes milliseconds of processor time; the rest is for machines where many others want it "
        "too. Together with max_wait_ms at most 1,500, since the edge waits 2 s for the router.",
    )
    max_wait_ms: float = Field(
        1000.0,
        gt=0,
        description="How long a request may wait until the router begins on it, ms; one that would wait, or has "
        "waited, longer is dealt with as on_overload says. Requests that name a model don't wait.",
    )
    on_overload: Literal["refuse", "base"] = Field(
        "refuse",
        description="When the router cannot choose in time: `refuse` answers 429 with Retry-After (503 when no router "
        "lives), `base` lets the base model answer and says so in the headers.",
    )
    selection: SelectionSettings = Field(default_factory=SelectionSettings)
    conversation: ConversationSettings = Field(default_factory=ConversationSettings)
    request: RequestSettings = Field(default_factory=RequestSettings)
    placement: PlacementSettings = Field(default_factory=PlacementSettings)

    @model_validator(mode="after")
    def _answers_the_edge_in_time(self) -> Self:
        if self.max_wait_ms + self.deadline_ms > ROUTER_BUDGET_MS:
            raise ValueError(
                f"max_wait_ms ({self.max_wait_ms:g}) and deadline_ms ({self.deadline_ms:g}) together must be at most "
                f"{ROUTER_BUDGET_MS:g}: the edge waits 2 s for the router"
            )
        return self


class EngineSettings(Section):
    """The vLLM engine of one replica."""

    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="What the engine computes on. `cuda` needs vLLM's GPU build (the package's extra `gpu`)."
    )
    replicas: int = Field(
        1,
        ge=1,
        description="Engine replicas, each with the base model, its own adapter slots and its own host memory for "
        "adapters.",
    )
    slots: int = Field(
        8,
        ge=1,
        description="Adapters on the device at once (vLLM `max_loras`); also the most in one batch: requests for "
        "others wait for a slot.",
    )
    host_adapter_mib: float = Field(
        PAGING.host_bytes / MIB,
        gt=0,
        description="Host memory for adapters, MiB; those that do not fit are read from disk again when they are asked "
        "for, before their request reaches the engine. An adapter larger than all of it cannot be used.",
    )
    max_rank: Literal[8, 16, 32, 64, 128, 256] = Field(
        16, description="Largest adapter rank; every slot is that large. A learnware with a larger one is refused."
    )
    max_model_len: int | None = Field(
        None,
        ge=16,
        description="Tokens of prompt and answer together; a longer prompt is answered 400. null: the model's own "
        "context, or as much of it as the KV cache holds.",
    )
    max_num_seqs: int = Field(16, ge=1, description="Requests that run in one batch; further ones wait.")
    max_ongoing_requests: int = Field(
        256,
        ge=1,
        description="Requests that a replica holds, running or waiting; at least max_num_seqs. Those beyond it wait "
        "outside, without bound, where the engine cannot group them by adapter: so well above max_num_seqs.",
    )
    dtype: str = Field(
        "auto",
        description="vLLM's dtype, such as float32. `auto`: bfloat16, but float32 on CPUs without instructions for it "
        "(avx512_bf16, amx_bf16), where bfloat16 is several times slower.",
    )
    kv_cache_gib: float = Field(
        1.0,
        ge=1,
        multiple_of=1,
        description="CPU: memory for the KV cache of each replica, GiB. A whole number: vLLM 0.29 reads no other "
        "(VLLM_CPU_KVCACHE_SPACE).",
    )
    gpu_memory_utilization: float = Field(
        0.9,
        gt=0,
        le=1,
        description="CUDA: share of device memory for weights, activations, slots and KV cache, which takes what the "
        "others leave.",
    )
    tensor_parallel_size: int = Field(
        1,
        ge=1,
        description="Devices that share the base model of one replica (vLLM's argument of this name). More than 1 has "
        "not been tried.",
    )
    scheduling: Literal["paged", "stock"] = Field(
        "paged",
        description="`paged`: requests of resident adapters first, grouped by adapter, every wait bounded; `stock`: "
        "vLLM's own order, for comparison.",
    )
    patience_s: float = Field(
        PAGING.patience_s,
        ge=0,
        description="paged: how long a request may be passed over before an adapter makes room for it, seconds. Longer "
        "under load: twice the mean wait. At 0 that alone counts.",
    )
    stuck_step_s: float = Field(
        120.0,
        gt=0,
        description="paged: seconds without a finished step, while requests are in the engine, after which it is taken "
        "for hung and its replica is replaced. A process that answers nothing at all is noticed within 8 s.",
    )
    pinned: tuple[str, ...] = Field(
        (),
        description="paged: ids of learnwares whose adapter keeps its slot once it has one. Fewer than slots, so that "
        "others have one to come to.",
    )
    on_load_failure: Literal["error", "base"] = Field(
        "error",
        description="When the adapter of a learnware that a request names cannot be loaded: `error` answers 503 with "
        "the reason, `base` lets the base model answer and says so in the headers. Where the router chose it, the next "
        "best learnware answers, or the base model.",
    )
    accelerator_type: str | None = Field(
        None,
        description="CUDA: Ray's name of the accelerator that replicas must be placed on, such as H100. null: any.",
    )
    options: Mapping[str, Any] = Field(
        default_factory=dict,
        description="Further vLLM engine or front-end arguments, as in `vllm serve`, with underscores. They have the "
        "last word over what the keys above say. Sampling of requests that ask for none follows the base model's "
        "generation_config.json (the embedded base: temperature 0.2, top_p 0.9); "
        "`override_generation_config: {temperature: 1.0}` changes it.",
    )

    @model_validator(mode="after")
    def _leaves_slots_to_others(self) -> Self:
        if self.pinned and self.scheduling != "paged":
            raise ValueError("pinned needs scheduling: paged")
        if len(set(self.pinned)) >= self.slots:
            raise ValueError(f"pinned names {len(set(self.pinned))} learnwares; fewer than slots ({self.slots}) can be")
        return self

    @model_validator(mode="after")
    def _holds_a_full_batch(self) -> Self:
        if self.max_ongoing_requests < self.max_num_seqs:
            raise ValueError(
                f"max_ongoing_requests ({self.max_ongoing_requests}) must be at least "
                f"max_num_seqs ({self.max_num_seqs})"
            )
        return self
