"""What a stack tells of itself is read as it is meant: metrics, HAProxy's statistics and log, keys, configuration."""

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos.main import KILLS_LIMITS
from benchmarks.chaos.target import (
    FIRST,
    EdgeLog,
    Logged,
    Setting,
    Target,
    configuration,
    free_udp_port,
    key_file,
    logged_in,
    metric,
    up_in,
)
from serving.config import Config

STATISTICS = """# pxname,svname,scur,status,
http_frontend,FRONTEND,3,OPEN,
learnware-via-ingress-request-router,SERVE_REPLICA::a,1,UP,
learnware-via-ingress-request-router,SERVE_REPLICA::b,0,DOWN,
learnware-via-ingress-request-router,SERVE_REPLICA::c,0,UP 1/3,
learnware-via-ingress-request-router,fallback,0,UP,
metrics,SERVE_REPLICA::d,0,UP,
"""
LINE = (
    "<134>Nov 28 10:00:00 haproxy[12]: 127.0.0.1:5000 [28/Nov/2026:10:00:00.001] http_frontend http_frontend/<NOSRV> "
    '0/-1/-1/-1/7 429 240 - - PR-- 1/1/0/0/0 0/0 "POST /v1/chat/completions HTTP/1.1"'
)


def test_replicas_that_are_up_are_read_from_the_statistics():
    assert up_in(STATISTICS) == {"SERVE_REPLICA::a", "SERVE_REPLICA::c"}


def test_a_line_of_the_log_gives_status_and_time():
    assert logged_in(LINE) == Logged(429, 7, "http_frontend")
    answered = LINE.replace("http_frontend/<NOSRV> 0/-1/-1/-1/7 429", "app/SERVE_REPLICA 1/0/2/300/+912 200")
    assert logged_in(answered) == Logged(200, 912, "app")
    assert logged_in("<133>Nov 28 10:00:00 haproxy[12]: Proxy stats started.") is None


async def test_the_log_is_taken_over_udp_while_it_is_open():
    port = free_udp_port()
    async with EdgeLog(Target("http://127.0.0.1:1", log_port=port)) as log:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(LINE.encode(), ("127.0.0.1", port))
            sender.sendto(b"something else", ("127.0.0.1", port))
        await asyncio.sleep(0.05)
    assert log.requests == [Logged(429, 7, "http_frontend")]


def test_a_metric_is_summed_over_the_samples_with_its_labels():
    text = 'a_total{x="1",y="2"} 3\na_total{x="1"} 4.5\na_total{x="2"} 8\nab_total 16\nb 1e2\n'
    assert metric(text, "a_total") == 15.5
    assert metric(text, "a_total", x="1") == 7.5
    assert metric(text, "b") == 100
    assert metric(text, "c") == 0


def test_the_key_file_holds_digests_and_is_its_owners_alone(tmp_path: Path):
    path = tmp_path / "keys.json"
    key_file(path, {FIRST: "secret"})
    content = json.loads(path.read_text())
    assert content["format"] == 1
    assert content["keys"][0]["sha256"] == hashlib.sha256(b"secret").hexdigest()
    assert "secret" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "setting", [Setting(), Setting(replicas=1, limits=KILLS_LIMITS), Setting(market=Path("/somewhere/market"))]
)
def test_a_configuration_is_one_that_the_stack_takes(setting: Setting, tmp_path: Path):
    made = configuration(setting, 9_000, tmp_path / "keys.json", "admin")
    config = Config.model_validate(json.loads(json.dumps(made)))
    assert config.engine.replicas == setting.replicas
    assert all(getattr(config.limits, key) == value for key, value in setting.limits)


def test_headers_have_the_tenants_key_where_there_are_keys():
    assert Target("http://127.0.0.1:1").headers() == {}
    target = Target("http://127.0.0.1:1", {FIRST: "a"}, "b")
    assert target.headers() == {"Authorization": "Bearer a"}
    assert target.admin_headers == {"Authorization": "Bearer b"}


def test_only_descendants_of_the_launcher_are_found():
    mark = "chaos-test-role"
    program = "import time; time.sleep(30)"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}, {mark!r}])"]
    )
    stranger = subprocess.Popen([sys.executable, "-c", program, mark])
    try:
        target = Target("http://127.0.0.1:1", root=parent.pid)
        found: list[psutil.Process] = []
        for _ in range(100):
            found = [one for one in target.of_role(mark) if one.pid != parent.pid]
            if found:
                break
            psutil.Process(os.getpid()).cpu_percent(0.05)
        assert [one.ppid() for one in found] == [parent.pid]
        assert stranger.pid not in {one.pid for one in found}
    finally:
        for process in (*target.processes(), psutil.Process(stranger.pid)):
            process.kill()
        parent.wait()
        stranger.wait()
    assert target.processes() == []
