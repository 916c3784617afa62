"""The cause of a failed start in one line, from messages that Ray Serve 2.60 and vLLM 0.29 really wrote
(`messages/`)."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from serving.launch.start_failure import LONGEST, cause_of, told

MESSAGES = Path(__file__).parent / "messages"
DTYPE = (
    "Failed to create vLLM engine config: 2 validation errors for ModelConfig "
    "dtype.literal['auto','half','float16','bfloat16','float','float32'] "
    "Input should be 'auto', 'half', 'float16', 'bfloat16', 'float' or 'float32' "
    "dtype.is-instance[dtype] Input should be an instance of dtype"
)


def message(name: str) -> str:
    return (MESSAGES / name).read_text(encoding="utf-8")


def application(
    *deployments: tuple[str, str, str], said: str = "Failed to update the deployments ['engine']."
) -> object:
    statuses = {name: SimpleNamespace(status=status, message=text) for name, status, text in deployments}
    return SimpleNamespace(message=said, deployments=statuses)


def test_the_constructors_last_exception_is_the_cause(tmp_path: Path) -> None:
    assert cause_of(message("wrong_dtype.txt"), tmp_path) == DTYPE


def test_the_cause_is_told_once_with_the_place_of_the_logs(tmp_path: Path) -> None:
    failed = application(
        ("engine", "DEPLOY_FAILED", message("wrong_dtype.txt")),
        ("router", "UPDATING", "Deployment 'router' has 2 replicas that have taken more than 30s to initialize."),
    )
    lines = told("learnware", failed, tmp_path).splitlines()
    assert lines == [f"engine failed to start: {DTYPE}", f"logs: {tmp_path}/ray/session_latest/logs"]


def test_an_application_that_could_not_be_built_tells_its_own_message(tmp_path: Path) -> None:
    built = application(said="Deploying app 'learnware' failed with exception:\nTraceback (most recent call last):\n"
        '  File "app.py", line 1, in build\nspecs.errors.InvalidConfig: unknown key engine.slot')  # fmt: skip
    assert told("learnware", built, tmp_path).startswith("learnware failed to start: unknown key engine.slot\n")


def test_the_engine_processes_own_exception_is_found_in_its_log(tmp_path: Path) -> None:
    (tmp_path / "worker-1-2.out").write_text(message("engine_core.txt"), encoding="utf-8")
    (tmp_path / "worker-1-2.err").write_text("ValueError: of somebody else\n", encoding="utf-8")
    failed = (
        "The deployment failed to start 1 times in a row. Error:\nTraceback (most recent call last):\n"
        '  File "utils.py", line 1, in wait\nRuntimeError: Engine core initialization failed. See root cause above. '
        "Failed core proc(s): {}"
    )
    assert cause_of(failed, tmp_path) == "ModuleNotFoundError: No module named 'serving.nowhere'"
    for log in tmp_path.iterdir():
        log.unlink()
    assert cause_of(failed, tmp_path).startswith("Engine core initialization failed.")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("a message without a traceback\nof two lines", "a message without a traceback of two lines"),
        ("Traceback (most recent call last):\n  File\nKeyError: 'a'", "KeyError: 'a'"),
        ("Traceback (most recent call last):\n  File\nTimeoutError", "TimeoutError"),
        ("Traceback (most recent call last):\n  File\nOSError: [Errno 28] No space", "OSError: [Errno 28] No space"),
        (
            "Traceback (most recent call last):\nKeyError: 'a'\nTraceback (most recent call last):\nValueError: wrong",
            "wrong",
        ),
    ],
)
def test_other_messages(text: str, cause: str, tmp_path: Path) -> None:
    assert cause_of(text, tmp_path) == cause


def test_a_long_cause_is_cut(tmp_path: Path) -> None:
    assert len(cause_of("ValueError: " + 400 * "word ", tmp_path)) <= LONGEST + 2
