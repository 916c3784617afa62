"""An engine's learnwares follow the market: nothing half, nothing old, nothing left behind."""

import asyncio
import inspect
import shutil
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM and torch warn while they are imported; not about us
    from vllm.entrypoints.openai.chat_completion import serving as chat
    from vllm.entrypoints.openai.completion import serving as completion
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.entrypoints.openai.responses import serving as responses
    from vllm.entrypoints.serve.engine.serving import BaseServing
    from vllm.lora.request import LoRARequest

    from serving.replica.adapter_registry import AdapterRegistry

from serving.replica.admission import Admission, Names
from serving.replica.prompt_logprobs import PromptLogprobs
from specs.errors import InvalidInput, InvalidLearnware
from specs.market.catalogue import Catalogue, Entry
from tests.specs.learnware_folder import write_learnware

pytestmark = pytest.mark.vllm


class Engine:
    """Stands for vLLM's engine: which numbers are loaded, from which folder."""

    def __init__(self) -> None:
        self.loaded: dict[int, str] = {}

    async def add_lora(self, request: LoRARequest) -> bool:
        await asyncio.sleep(0)
        if "refused" in request.lora_path:
            raise RuntimeError("wrong shape")
        self.loaded.setdefault(request.lora_int_id, request.lora_path)
        return True

    async def remove_lora(self, number: int) -> bool:
        return self.loaded.pop(number, None) is not None


class Models(OpenAIServingModels):
    """vLLM's own registration, over that engine."""

    def __init__(self) -> None:
        engine = Engine()
        engine.model_config = engine.renderer = engine.input_processor = None
        super().__init__(engine, [SimpleNamespace(name="base", model_path="base")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_learnware(tmp_path_factory.mktemp("learnwares") / "colours-objects")


def entry(folder: Path, learnware_id: str, mark: str) -> Entry:
    return Entry(learnware_id, 1, mark * 64, folder)


def start() -> tuple[AdapterRegistry, Models, Admission]:
    models = Models()
    admission = Admission(Names("base", frozenset({"auto"}), {}))
    return AdapterRegistry(models, admission), models, admission


async def use(models: Models) -> None:
    """What a first request for each served adapter does."""
    for request in models.lora_requests.values():
        await models.engine_client.add_lora(request)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_the_catalogue_says_is_what_is_served(folder: Path):
    registry, models, admission = start()
    await registry.apply(Catalogue(1, (entry(folder, "a", "1"), entry(folder, "b", "2"))))
    assert admission.names.learnwares == {"a": "a@" + "1" * 12, "b": "b@" + "2" * 12}
    assert set(models.lora_requests) == set(registry.cards) == {"a", "b"}
    assert [request.lora_name for request in registry.served] == ["a@" + "1" * 12, "b@" + "2" * 12]
    assert models.engine_client.loaded == {}  # until somebody needs them
    await use(models)
    await registry.apply(Catalogue(2, (entry(folder, "b", "2"),)))
    await settle()
    assert set(models.lora_requests) == set(admission.names.learnwares) == {"b"}
    assert len(models.engine_client.loaded) == 1


async def test_answers_say_the_public_id(folder: Path):
    registry, models, _ = start()
    await registry.apply(Catalogue(1, (entry(folder, "a.b-c", "1"),)))
    assert models.model_name(models.lora_requests["a.b-c"]) == "a.b-c"
    assert models.model_name() == models.model_name(None) == "base"


async def test_a_canary_is_served_beside_its_learnware_and_then_in_its_place(folder: Path):
    registry, models, admission = start()
    await registry.apply(Catalogue(1, (entry(folder, "a", "1"),)))
    canary = entry(folder, "a@canary", "2")._replace(canary=0.05)
    await registry.apply(Catalogue(2, (entry(folder, "a", "1"), canary)))
    assert admission.names.learnwares == {"a": "a@" + "1" * 12, "a@canary": "a@canary@" + "2" * 12}
    assert models.model_name(models.lora_requests["a@canary"]) == "a@canary"
    await use(models)
    with admission.use("a@canary@" + "2" * 12):
        await registry.apply(Catalogue(3, (entry(folder, "a", "2"),)))
        await settle()
        assert len(models.engine_client.loaded) == 1  # a request of the canary's still runs
    await settle()
    assert admission.names.learnwares == {"a": "a@" + "2" * 12}
    assert (set(models.lora_requests), models.engine_client.loaded) == ({"a"}, {})


async def test_an_id_with_a_slash_is_a_name_and_no_path(folder: Path):
    registry, models, admission = start()
    await registry.apply(Catalogue(1, (entry(folder, "acme/tfns", "1"), entry(folder, "acme-tfns", "1"))))
    assert admission.names.learnwares["acme/tfns"] == "acme/tfns@" + "1" * 12
    request = models.lora_requests["acme/tfns"]
    assert request.lora_path == str(folder)
    assert models.model_name(request) == "acme/tfns"
    assert request.lora_int_id != models.lora_requests["acme-tfns"].lora_int_id
    await registry.apply(Catalogue(2, (entry(folder, "acme-tfns", "1"),)))
    await settle()
    assert set(models.lora_requests) == {"acme-tfns"}
    assert models.lora_resolvers == []  # which would look on disk, or on the hub, for what is called so


async def test_a_new_version_has_another_name_and_number_and_the_old_one_leaves_when_its_requests_are_done(
    folder: Path,
):
    registry, models, admission = start()
    await registry.apply(Catalogue(1, (entry(folder, "a", "1"),)))
    old = models.lora_requests["a"]
    await use(models)
    with admission.use("a@" + "1" * 12):
        await registry.apply(Catalogue(2, (entry(folder, "a", "2"),)))
        await use(models)
        await settle()
        new = models.lora_requests["a"]
        assert (new.lora_name, old.lora_name) == ("a@" + "2" * 12, "a@" + "1" * 12)
        assert new.lora_int_id != old.lora_int_id
        assert set(models.engine_client.loaded) == {old.lora_int_id, new.lora_int_id}
    await settle()
    assert set(models.engine_client.loaded) == {new.lora_int_id}


async def test_a_request_that_was_admitted_finds_a_learnware_that_is_removed_before_it_asks(folder: Path):
    registry, models, admission = start()
    await registry.apply(Catalogue(1, (entry(folder, "a", "1"),)))
    await use(models)
    with admission.use("a@" + "1" * 12):
        await registry.apply(Catalogue(2, ()))
        await settle()
        assert admission.names.learnwares == {}  # nobody new
        assert "a" in models.lora_requests
        assert models.engine_client.loaded
    await settle()
    assert models.lora_requests == {}
    assert models.engine_client.loaded == {}


async def test_a_version_that_comes_back_keeps_its_number(folder: Path):
    """vLLM compares requests by name: two numbers for one name in a batch would lose one of them."""
    registry, models, admission = start()
    await registry.apply(Catalogue(1, (entry(folder, "a", "1"),)))
    number = models.lora_requests["a"].lora_int_id
    await use(models)
    with admission.use("a@" + "1" * 12):
        await registry.apply(Catalogue(2, ()))
        await registry.apply(Catalogue(3, (entry(folder, "a", "1"),)))
    await settle()
    assert models.lora_requests["a"].lora_int_id == number
    assert set(models.engine_client.loaded) == {number}
    await registry.apply(Catalogue(4, ()))
    await settle()
    assert models.engine_client.loaded == {}
    await registry.apply(Catalogue(5, (entry(folder, "a", "1"),)))
    assert models.lora_requests["a"].lora_int_id == number


async def test_one_whose_folder_cannot_be_read_costs_itself(folder: Path, tmp_path: Path, caplog):
    registry, models, admission = start()
    bad = {name: Path(shutil.copytree(folder, tmp_path / name)) for name in ("cut", "lost", "cardless", "gone")}
    weights = bad["cut"] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    (bad["lost"] / "adapter_model.safetensors").unlink()
    (bad["cardless"] / "learnware.yaml").write_text("{")
    shutil.rmtree(bad["gone"])
    entries = tuple(entry(path, name, str(mark)) for mark, (name, path) in enumerate(bad.items(), 2))
    await registry.apply(Catalogue(1, (entry(folder, "a", "1"), *entries), {"unfit": 2}))
    assert set(admission.names.learnwares) == set(models.lora_requests) == {"a"}
    assert (registry.left_out, registry.unserved) == (4, {"unfit": 2})
    assert all(any(f"{name} is not served here" in line for line in caplog.messages) for name in bad)
    # a new version that cannot be read does not leave the old one in its place
    await registry.apply(Catalogue(2, (entry(bad["cut"], "a", "7"),)))
    await settle()
    assert admission.names.learnwares == models.lora_requests == {}


async def test_one_on_trial_is_loaded_at_once(folder: Path, tmp_path: Path):
    registry, models, admission = start()
    request = await registry.load(entry(folder, "a", "1"))
    assert models.engine_client.loaded == {request.lora_int_id: str(folder)}
    assert admission.names.learnwares == models.lora_requests == {}
    refused = Path(shutil.copytree(folder, tmp_path / "refused"))
    with pytest.raises(InvalidLearnware, match="'b': the engine refused its adapter: wrong shape"):
        await registry.load(entry(refused, "b", "2"))
    await registry.unload("a@" + "1" * 12)
    assert models.engine_client.loaded == {}


async def test_a_thousand_are_registered_in_moments(folder: Path):
    """Some 0.5 ms each, where loading them took 90."""
    registry, _, admission = start()
    entries = tuple(Entry(f"l{i}", 1, f"{i:064}"[::-1], folder) for i in range(1000))
    begun = time.perf_counter()
    await registry.apply(Catalogue(1, entries))
    assert time.perf_counter() - begun < 5
    assert len(admission.names.learnwares) == 1000
    assert len({request.lora_int_id for request in registry.served}) == 1000


async def test_all_of_a_change_is_served_at_once(folder: Path):
    registry, models, admission = start()
    change = asyncio.create_task(
        registry.apply(Catalogue(1, tuple(entry(folder, name, mark) for name, mark in ("a1", "b2", "c3"))))
    )
    seen = set()
    while not change.done():
        seen.add((len(admission.names.learnwares), len({"a", "b", "c"} & set(models.lora_requests))))
        await asyncio.sleep(0)
    assert seen <= {(0, 0), (3, 3)}
    assert (0, 0) in seen


def test_vllm_asks_for_the_name_and_the_adapter_where_we_stand():
    for module in (chat, completion, responses):
        source = inspect.getsource(module)
        assert "self.models.model_name(lora_request)" in source, module
        assert "lora_request.lora_name" not in source, module
    assert "self.models.lora_requests[request.model]" in inspect.getsource(BaseServing)
    assert "lora_name" in inspect.getsource(LoRARequest.__hash__)
    loading = inspect.getsource(OpenAIServingModels.load_lora_adapter)
    for fact in ("self.lora_id_counter.inc(1)", "LoRARequest(", "lora_request.base_model_name = base_model_name"):
        assert fact in loading  # what `AdapterRegistry` does in its place
    fields = {"lora_name", "lora_int_id", "lora_path", "base_model_name"}
    assert set(LoRARequest.__struct_fields__) - fields == {
        "tensorizer_config_dict",
        "load_inplace",
        "is_3d_lora_weight",
    }


@pytest.fixture(scope="module")
def output_layer(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same learnware, adapting `lm_head` as well."""
    changed = Path(shutil.copytree(folder, tmp_path_factory.mktemp("lm-head") / "colours-objects"))
    tensors = load_file(changed / "adapter_model.safetensors")
    prefix = "base_model.model.lm_head.lora_"
    more = {f"{prefix}A.weight": np.ones((4, 8), np.float32), f"{prefix}B.weight": np.ones((32, 4), np.float32)}
    save_file(tensors | more, changed / "adapter_model.safetensors")
    return changed


async def test_while_an_adapter_of_lm_head_is_loaded_prompt_logprobs_are_refused(folder: Path, output_layer: Path):
    models = Models()
    admission, guard = Admission(Names("base", frozenset({"auto"}), {})), PromptLogprobs()
    registry = AdapterRegistry(models, admission, guard)

    def refused() -> bool:
        try:
            with guard.admit("/v1/completions", {"prompt_logprobs": 1}):
                return False
        except InvalidInput:
            return True

    plain, changed = entry(folder, "a", "1"), entry(output_layer, "b", "2")
    await registry.apply(Catalogue(1, (plain,)))
    assert not refused()
    await registry.load(changed)  # on trial, not served yet
    assert refused()
    await registry.unload(changed.engine_name)
    assert not refused()
    await registry.apply(Catalogue(2, (plain, changed)))
    assert refused()
    with admission.use(changed.engine_name):
        await registry.apply(Catalogue(3, (plain,)))
        await settle()
        assert refused()  # a request still uses it
    await settle()
    assert not refused()


async def test_an_adapter_of_lm_head_that_the_engine_refuses_refuses_nobody(output_layer: Path, tmp_path: Path):
    bad = Path(shutil.copytree(output_layer, tmp_path / "refused"))
    guard = PromptLogprobs()
    registry = AdapterRegistry(Models(), Admission(Names("base", frozenset({"auto"}), {})), guard)
    with pytest.raises(InvalidLearnware):
        await registry.load(entry(bad, "b", "2"))
    with guard.admit("/v1/completions", {"prompt_logprobs": 1}):
        pass
