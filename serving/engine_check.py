"""Checks the engine's arguments by building vLLM's own configuration from them, so that what passes starts:
`python -m serving.engine_check`, in a process of its own, since importing vLLM takes ten seconds and half a gigabyte.

The start of a stack runs the same check (`serving.launch.deploy_process`), where vLLM is imported anyway.
"""

import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from specs.errors import InvalidConfig, StartupError

_CUDA_DEVICES = ("/dev/nvidiactl", "/dev/dxg")
"""Device files by which NVIDIA's driver is reached: Linux' own, and that of Linux within Windows."""
MARK = "learnware-serving: "
"""Begins the line in which a process of ours says what was wrong, after whatever libraries have printed."""
TIME_LIMIT_S = 300.0
"""Seconds that the check may take: a cold disk needs a minute to import vLLM."""
SHOWN_LINES = 12
"""Last lines of its output that are shown when it ended in a way that nobody foresaw."""
NOT_HERE = 3
"""Exit status of the process that cannot check, for lack of vLLM or of the device."""

LONGEST = 480
"""Characters of vLLM's own words in a message; some list every name that would have been right."""


class CannotCheck(StartupError):
    """vLLM, or the build of it for the device, is not on this machine."""


def check_in_a_process(config: Any, base: Callable[[], Path]) -> None:
    """Runs `check_engine` in a process of its own. `base` makes the base model's folder ready; it is called only where
    there is a device to check for.

    Raises:
        CannotCheck, InvalidConfig: as `check_engine` does.
        StartupError: the process ended otherwise.
    """
    if importlib.util.find_spec("vllm") is None:
        raise CannotCheck("vLLM is not installed here")
    if config.engine.device == "cuda" and not any(Path(device).exists() for device in _CUDA_DEVICES):
        raise CannotCheck("engine.device is cuda, and this machine has none")
    environment = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"}
    if config.engine.device == "cpu":
        environment["VLLM_CPU_KVCACHE_SPACE"] = f"{config.engine.kv_cache_gib:g}"
    done = subprocess.run(
        [sys.executable, "-m", "serving.engine_check"],
        input=pickle.dumps((config, base())),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    if done.returncode:
        said = what_it_said(done.stdout.decode(errors="replace")) or f"the check ended with {done.returncode}"
        if done.returncode == NOT_HERE:
            raise CannotCheck(said)
        raise InvalidConfig(said)


def what_it_said(output: str) -> str:
    """Returns what follows the mark in a process's output; where there is none, its last lines."""
    _, mark, said = output.rpartition(f"\n{MARK}")
    if mark:
        return said.strip()
    return "\n".join(output.strip().splitlines()[-SHOWN_LINES:])


def say_for_the_starter(error: Exception) -> None:
    """Prints an error for the process that reads this one's output (`what_it_said`)."""
    print(f"\n{MARK}{error}", flush=True)


def check_engine(config: Any, base: Path) -> None:
    """Builds vLLM's configuration of the engine, as a replica will, and checks what it leaves to the start.

    Raises:
        InvalidConfig: an argument is unknown, or vLLM takes it not; one sentence.
        CannotCheck: the installed vLLM computes on another device.
    """
    from vllm.platforms import current_platform

    from serving.app import llm_config
    from serving.ray_internals import vllm_configuration

    device, platform = config.engine.device, current_platform.device_type or "no device of this machine"
    if platform != device:
        raise CannotCheck(f"engine.device is {device}, and the vLLM installed here computes on {platform}")
    _check_names(config.engine.options)
    try:
        made, front_end = vllm_configuration(llm_config(config, base))
    except Exception as error:  # noqa: BLE001 - vLLM raises whatever it likes
        raise InvalidConfig(f"engine: vLLM refuses its arguments: {in_a_sentence(error)}") from None
    _check_tokenizer(made.model_config)
    _check_front_end(front_end)
    _check_devices(made.parallel_config, current_platform)
    _check_room(config, made)


def _check_names(options: Any) -> None:
    from serving.ray_internals import vllm_argument_names
    from specs.suggestion import did_you_mean

    names = vllm_argument_names()
    for name in options:
        if name not in names:
            raise InvalidConfig(f"engine.options: vLLM has no argument {name!r}{did_you_mean(name, names)}")


def _check_tokenizer(model: Any) -> None:
    from vllm.tokenizers import cached_tokenizer_from_config

    try:
        cached_tokenizer_from_config(model)
    except Exception as error:  # OSError, ValueError, or what the tokenizer's own code raises
        raise InvalidConfig(f"the tokenizer in {model.tokenizer} cannot be read: {in_a_sentence(error)}") from error


def _check_devices(parallel: Any, platform: Any) -> None:
    if platform.is_cuda() and parallel.world_size > platform.device_count():
        raise InvalidConfig(
            f"one engine needs {parallel.world_size} devices (engine.tensor_parallel_size, and pipeline_parallel_size "
            f"of engine.options), and this machine has {platform.device_count()}"
        )


def _check_front_end(front_end: Any) -> None:
    from vllm.entrypoints.chat_utils import load_chat_template
    from vllm.tool_parsers import ToolParserManager

    try:
        if front_end.enable_auto_tool_choice:
            ToolParserManager.get_tool_parser(front_end.tool_call_parser)
    except Exception as error:  # KeyError for an unknown name, TypeError for none
        known = ", ".join(ToolParserManager.list_registered())
        raise InvalidConfig(
            f"engine.options: tool_call_parser {front_end.tool_call_parser!r} is none of {known}"
        ) from error
    try:
        load_chat_template(front_end.chat_template)
    except Exception as error:  # ValueError, or what its own template engine raises
        raise InvalidConfig(f"engine.options: chat_template cannot be read: {in_a_sentence(error)}") from error


def _check_room(config: Any, made: Any) -> None:
    """Checks that the KV cache of a CPU holds one request of full length; vLLM does so only when the model is loaded.
    Where max_model_len is not given vLLM makes it fit by itself, and other kinds of attention than the plain one it
    counts otherwise."""
    model, engine = made.model_config, config.engine
    given = engine.options.get("max_model_len", engine.max_model_len)
    plain = not (model.use_mla or model.is_hybrid or model.is_attention_free or model.get_sliding_window())
    if engine.device != "cpu" or given in (None, -1) or not plain:
        return
    parallel = made.parallel_config
    numbers = 2 * model.get_num_layers(parallel) * model.get_num_kv_heads(parallel) * model.get_head_size()
    cached = made.cache_config.cache_dtype
    width = model.dtype.itemsize if cached == "auto" else 1 if cached.startswith("fp8") else 2
    tokens = made.cache_config.kv_cache_memory_bytes // (numbers * width)
    if model.max_model_len > tokens:
        raise InvalidConfig(
            f"engine.max_model_len is {model.max_model_len:,}, and engine.kv_cache_gib ({engine.kv_cache_gib:g}) holds "
            f"{tokens:,} tokens: lower the one, raise the other, or let max_model_len be null"
        )


def in_a_sentence(error: BaseException) -> str:
    """Returns an error's own words in one line, cut at `LONGEST` characters: of pydantic's, the first problem of each
    field, without its inputs."""
    problems = getattr(error, "errors", None)
    if callable(problems):
        found: dict[str, str] = {}  # a field of several types has a problem with each
        for problem in problems():
            found.setdefault(str(problem["loc"][0]) if problem["loc"] else "", problem["msg"])
        text = "; ".join(f"{field}: {said}" if field else said for field, said in found.items())
        text = text.replace("Value error, ", "")
    else:
        text = str(error)
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rsplit(' ', 1)[0]} …"


def main() -> int:
    """Checks the pickled configuration and base model's folder on standard input. Returns the exit status."""
    config, base = pickle.load(sys.stdin.buffer)  # noqa: S301 (from the process that started this one)
    try:
        check_engine(config, base)
    except CannotCheck as error:
        say_for_the_starter(error)
        return NOT_HERE
    except InvalidConfig as error:
        say_for_the_starter(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
