"""The engine's arguments are checked by vLLM's own configuration: what does not start does not pass, in a sentence."""

import os
from pathlib import Path
from typing import Any

import pytest

from serving import engine_check
from serving.base_model import ensure_base_model
from serving.config import Config
from serving.engine_check import LONGEST, CannotCheck, check_engine, check_in_a_process, what_it_said
from serving.paths import cache_folder
from specs.errors import InvalidConfig

pytest.importorskip("vllm")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
"""vLLM imports parts of torch that torch deprecates."""


@pytest.fixture(scope="module")
def base() -> Path:
    return ensure_base_model("embedded", cache_folder(), print)


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")


def config(**engine: Any) -> Config:
    return Config.model_validate({"engine": engine})


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        {},
        {"max_model_len": 8192, "dtype": "float32"},
        {"options": {"override_generation_config": {"temperature": 1.0}, "seed": 3}},
        {"scheduling": "stock", "slots": 2, "max_rank": 64},
    ],
)
def test_what_starts_passes(engine: dict[str, Any], base: Path) -> None:
    check_engine(config(**engine), base)


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ({"dtype": "bfloat17"}, "dtype: Input should be 'auto', 'half', 'float16', 'bfloat16', 'float' or 'float32'"),
        (
            {"options": {"max_num_batched_token": 3}},
            "no argument 'max_num_batched_token'; did you mean max_num_batched",
        ),
        ({"options": {"model": "x"}}, "engine.options: vLLM has no argument 'model'"),
        ({"options": {"quantization": "awqq"}}, "Unknown quantization method: awqq. Must be one of"),
        ({"options": {"tokenizer": "/nowhere"}}, "the tokenizer in /nowhere cannot be read: "),
        ({"options": {"tool_call_parser": "hermess"}}, "tool_call_parser 'hermess' is none of apertus, "),
        ({"options": {"chat_template": "/no.jinja"}}, "engine.options: chat_template cannot be read: "),
        ({"options": {"max_num_batched_tokens": "many"}}, "max_num_batched_tokens: Input should be a valid integer"),
        ({"tensor_parallel_size": 64}, "heads (9) must be divisible by tensor parallel size (64)"),
        ({"max_model_len": 9000}, "max_model_len (9000) is greater than the derived max_model_len"),
    ],
    ids=str,
)
def test_what_does_not_start_is_refused_in_a_sentence(engine: dict[str, Any], reason: str, base: Path) -> None:
    with pytest.raises(InvalidConfig) as raised:
        check_engine(config(**engine), base)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 2 * LONGEST


@pytest.mark.vllm
@pytest.mark.slow
def test_a_cache_that_does_not_hold_one_request_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM itself says so only when the model is loaded."""
    wide = config(max_model_len=8192, dtype="float32", options={"kv_cache_memory_bytes": 1 << 28})
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    with pytest.raises(InvalidConfig, match=r"max_model_len is 8,192, and engine\.kv_cache_gib \(1\) holds 5,825 tok"):
        check_engine(wide, base)


@pytest.mark.vllm
@pytest.mark.slow
def test_another_device_is_not_checked_here(base: Path) -> None:
    with pytest.raises(CannotCheck, match=r"engine\.device is cuda, and the vLLM installed here computes on cpu"):
        check_engine(config(device="cuda"), base)


@pytest.mark.vllm
@pytest.mark.slow
def test_a_process_of_its_own_says_the_same(base: Path) -> None:
    with pytest.raises(InvalidConfig) as raised:
        check_in_a_process(config(dtype="bfloat17"), lambda: base)
    assert str(raised.value).startswith("engine: vLLM refuses its arguments: dtype: Input should be 'auto'")


def test_without_the_device_no_base_model_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_check, "_CUDA_DEVICES", ("/dev/of/nobody",))
    with pytest.raises(CannotCheck, match="this machine has none"):
        check_in_a_process(config(device="cuda"), lambda: pytest.fail("not to be prepared"))


def test_what_a_process_says_is_told_from_what_libraries_print() -> None:
    assert what_it_said("INFO a\n\nlearnware-serving: wrong key\n") == "wrong key"
    assert what_it_said("\n".join(map(str, range(99)))).splitlines()[-1] == "98"
    assert os.linesep not in what_it_said("")
