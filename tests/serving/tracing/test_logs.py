"""Log lines as JSON objects."""

import json
import logging
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

pytest.importorskip("ray.serve")

from serving.serve_file import serve_file
from serving.tracing.context import Correlation, TraceContext, correlation
from serving.tracing.logs import LOGS_VARIABLE, VLLM_CONFIGURATION, JsonFormatter, say_json

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def formatted(formatter: JsonFormatter, message: str, *arguments: Any, exc_info: Any = None) -> dict[str, Any]:
    record = logging.LogRecord("ray.serve", logging.WARNING, __file__, 1, message, arguments, exc_info)
    record.created = 1764320000.1239
    line = formatter.format(record)
    assert "\n" not in line
    read: dict[str, Any] = json.loads(line)
    return read


def test_a_line_has_its_time_level_logger_and_process() -> None:
    assert formatted(JsonFormatter("engine", "x1"), "%s is\nfull", "it") == {
        "time": "2025-11-28T08:53:20.123Z",
        "level": "WARNING",
        "logger": "ray.serve",
        "message": "it is\nfull",
        "process": "engine",
        "replica": "x1",
        "pid": os.getpid(),
    }


def test_a_line_of_a_request_has_its_ids() -> None:
    before = correlation.set(Correlation("mine", TraceContext(TRACE, SPAN, True)))
    try:
        line = formatted(JsonFormatter("router"), "a")
    finally:
        correlation.reset(before)
    assert (line["request_id"], line["trace_id"]) == ("mine", TRACE)
    assert not {"request_id", "trace_id"} & formatted(JsonFormatter("router"), "a").keys()


def test_an_error_is_one_line_with_its_traceback() -> None:
    try:
        raise ValueError("wrong \u2028 \ud800")
    except ValueError:
        line = formatted(JsonFormatter("engine"), "failed", exc_info=sys.exc_info())
    assert "ValueError: wrong" in line["exception"]


def test_progress_is_told_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say = say_json("launcher")
    say("starting Ray")
    say("no", "ERROR")
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["level"], first["message"], first["process"]) == ("INFO", "starting Ray", "launcher")
    assert (second["level"], second["message"]) == ("ERROR", "no")


PROGRAM = """
    import logging, logging.handlers, sys, warnings
    logging.getLogger("ray.serve").addHandler(logging.StreamHandler())
    behind = logging.StreamHandler()
    behind.setFormatter(logging.Formatter("text %(message)s"))
    logging.getLogger("ray").addHandler(logging.handlers.MemoryHandler(1, target=behind))
    logging.getLogger("vllm").addHandler(logging.StreamHandler())
    import serving.tracing.logs as logs
    logs.begin_json_logs()
    logs.begin_json_logs()
    for name in ("ray.serve", "vllm.engine", "some.library"):
        logging.getLogger(name).warning("of %s", name)
    logging.getLogger("ray").error("buffered")
    warnings.warn("old")
"""


def lines_of(form: str | None) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != LOGS_VARIABLE}
    environment |= {} if form is None else {LOGS_VARIABLE: form}
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
    return done.stderr.splitlines()


@pytest.mark.slow
def test_every_logger_of_a_process_writes_json() -> None:
    lines = [json.loads(line) for line in lines_of("json")]
    assert {(line["logger"], line["level"]) for line in lines} == {
        ("ray.serve", "WARNING"),
        ("vllm.engine", "WARNING"),
        ("some.library", "WARNING"),
        ("ray", "ERROR"),
        ("py.warnings", "WARNING"),
    }
    assert len(lines) == 5, "a line was written twice"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", None])
def test_without_the_variable_lines_stay_as_they_are(form: str | None) -> None:
    assert "text buffered" in lines_of(form)


@pytest.mark.vllm
@pytest.mark.slow
def test_the_engines_own_processes_write_json_past_vllms_prefix() -> None:
    program = """
        from vllm.utils.system_utils import decorate_logs
        from vllm.logger import init_logger
        decorate_logs("EngineCore")
        init_logger("vllm.core").warning("slow step")
    """
    environment = os.environ | {"VLLM_LOGGING_CONFIG_PATH": str(VLLM_CONFIGURATION)}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment)
    line = json.loads(next(each for each in done.stderr.splitlines() if "slow step" in each))
    assert (line["logger"], line["message"]) == ("vllm.core", "slow step")


def test_rays_own_processes_write_json_too() -> None:
    from ray import serve

    from serving.config import Config
    from serving.launch.deploy_process import with_logs

    target = serve.RunTarget(None, name="market", route_prefix="/v1/learnwares")
    in_json = with_logs(target, Config.model_validate({"traces": {"logs": "json"}}))
    assert (in_json.name, in_json.logging_config) == ("market", {"encoding": "JSON"})
    assert with_logs(target, Config()) is target
    assert "encoding: JSON" in serve_file(Config.model_validate({"traces": {"logs": "json"}}))
    assert "logging_config" not in serve_file(Config())


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_launcher_tells_the_form_to_all_processes(form: str) -> None:
    from serving.config import Config
    from serving.launch.instance import plan
    from serving.launch.stack import _environment

    config = Config.model_validate({"traces": {"logs": form}})
    instance = plan("127.0.0.1", 8000)  # touches nothing
    for one_machine in (True, False):
        assert _environment(config, instance, one_machine=one_machine)[LOGS_VARIABLE] == form
