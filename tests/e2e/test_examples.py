"""The examples run as a user runs them, against the shared stack."""

import os
import subprocess
import sys

import httpx
import pytest

from tests.e2e.support import ADMIN_KEY, USER_KEY, Stack
from tests.support import ROOT

pytestmark = pytest.mark.e2e


def run(stack: Stack, name: str, *arguments: str) -> str:
    """What an example printed; it must end with 0."""
    command = [sys.executable, f"benchmarks/examples/{name}.py", *arguments]
    environment = os.environ | {
        "LEARNWARE_URL": stack.url,
        "LEARNWARE_ADMIN_KEY": ADMIN_KEY,
        "OPENAI_API_KEY": USER_KEY,
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_task_specification_is_made_uploaded_and_asked_for(stack: Stack):
    said = run(stack, "task_specification")
    assert said.count("from finance-") == 3


def test_the_openai_client_streams_keeps_a_schema_and_calls_a_tool(stack: Stack):
    said = run(stack, "openai_client")
    assert "as JSON: {'sentiment':" in said
    assert "a tool: set_alert(" in said


@pytest.mark.extra
def test_your_own_learnware_goes_from_rows_to_an_answer_of_auto(stack: Stack, http: httpx.Client):
    said = run(stack, "own_learnware", "--max-steps", "8", "--no-keep", "--evaluation-rows", "6", "--threads", "1")
    assert "auto: " in said
    assert http.get("/v1/learnwares/example-support-tickets").json()["state"] == "removed"


def test_an_example_that_gets_no_good_answer_ends_with_an_error(stack: Stack):
    command = [sys.executable, "benchmarks/examples/openai_client.py", "--url", f"{stack.url}/nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
