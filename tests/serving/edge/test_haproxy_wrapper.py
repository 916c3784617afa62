"""The edge rules on configurations that Ray's own template renders, so that a Ray upgrade which moves it fails here."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.edge import haproxy_wrapper
from serving.edge.answers import ANTHROPIC, ERRORS, error_body
from serving.edge.haproxy_wrapper import edit
from serving.edge.router_rules import edit_script
from serving.edge.template import TemplateChanged, script_of
from specs.errors import LearnwareError
from tests.serving.edge.door import settings, wrapper
from tests.serving.edge.haproxy_config import RenderedPorts, render

SETTINGS = settings()._replace(frontend_host="")


@pytest.fixture(params=["with a router", "without a router", "without applications"])
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    router, apps = request.param == "with a router", request.param != "without applications"
    return render(tmp_path, monkeypatch, router=router, apps=apps, ports=RenderedPorts()).read_text()


@pytest.fixture
def routed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return render(tmp_path, monkeypatch, ports=RenderedPorts()).read_text()


def test_nothing_is_forwarded_asked_or_waited_for_before_the_edges_own_rules(config: str) -> None:
    frontend = edit(config, "/run", SETTINGS).split("frontend http_frontend\n")[1]
    last = frontend.index("track-sc3")
    for later in ("use_backend", "wait-for-body", "lua.route"):
        assert later not in frontend[:last]
    assert frontend.index("del-header x-serve-router- -m beg\n") < frontend.index("http-request set-path")


def test_every_listening_address_is_the_configured_one(config: str) -> None:
    edited = edit(config, "/run", SETTINGS)
    assert re.findall(r"^ +bind (\S+)$", edited, re.MULTILINE) == [
        "127.0.0.1:19101",
        "127.0.0.1:18000",
        "127.0.0.1:18404",
    ]
    public = edit(config, "/run", SETTINGS._replace(frontend_host="*"))
    assert re.findall(r"^ +bind (\S+)$", public, re.MULTILINE) == ["127.0.0.1:19101", "*:18000", "127.0.0.1:18404"]


def test_the_admin_socket_is_the_owners_alone(config: str) -> None:
    assert " mode 600 level admin" in edit(config, "/run", SETTINGS)


def test_only_paths_that_generate_ask_the_router_and_no_application_with_a_longer_prefix(routed: str) -> None:
    flag = next(line for line in edit(routed, "/run", SETTINGS).splitlines() if "str(http-learnware)" in line)
    assert "if is_http-learnware edge_generates !is_http-metrics !{" in flag


def test_a_failing_router_lets_requests_through_and_says_why(routed: str) -> None:
    edited = edit(routed, "/run", SETTINGS)
    assert "Ingress request router failed" not in edited
    assert "set-header x-serve-router-failed %[var(txn.ingress_request_router_failed)]" in edited


def test_a_slow_upload_has_its_own_time_limit(routed: str) -> None:
    assert "wait-for-body time 30s if METH_POST is_http-learnware !is_http-metrics\n" in edit(routed, "/run", SETTINGS)


def test_editing_twice_changes_nothing_more(config: str) -> None:
    once = edit(config, "/run", SETTINGS)
    assert edit(once, "/run", SETTINGS) == once


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mode 666", "mode 660"),
        ("frontend prometheus\n    bind", "frontend prometheus\n    # a comment\n    bind"),
        ("listen stats\n  bind", "listen stats\n  bind-process all\n  bind"),
        ("    tune.bufsize ", "    tune.bufsizes "),
        ("backend http-learnware\n    log global\n", "backend http-learnware\n    log stdout\n"),
        ("    errorfile 503 ", "    errorfile 500 "),
        ("backend default_backend\n    http-request return", "backend default_backend\n    http-request deny"),
        ("frontend http_frontend\n", "frontend http\n"),
        ("    http-request set-var(txn.ingress_request_router_app)", "    http-request set-var(txn.router_app)"),
        ("http-request wait-for-body time", "http-request wait-for-body at-least 1 time"),
        ("Ingress request router failed: ", "Router failed: "),
        ("    lua-load-per-thread", "    lua-load"),
    ],
    ids=lambda text: text.strip().partition("\n")[0],
)
def test_a_moved_template_line_is_refused(routed: str, old: str, new: str) -> None:
    assert old in routed
    with pytest.raises(TemplateChanged):
        edit(routed.replace(old, new), "/run", SETTINGS)


def test_routers_are_asked_through_one_backend_that_checks_them(routed: str) -> None:
    path = script_of(routed)
    assert path is not None
    script, backends = edit_script(Path(path).read_text(), "/run")
    entry = '{ host = "unix@/run/router0", port = 0, host_header = "router" }'
    assert f'["http-learnware"] = {{ {entry}, {entry} }}' in script
    assert "    bind unix@/run/router0 mode 600\n" in backends
    for port in (RenderedPorts().router, RenderedPorts().second_router):
        assert f"    server 127.0.0.1-{port} 127.0.0.1:{port} check " in backends
        assert str(port) not in script


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("local ROUTERS", "local POOLS"),
        ("port = ", "service = "),
        ("if response then", "if answer then"),
        ("local function http_response_body", "local function body_of"),
        ('"router_non_200"', '"router_not_200"'),
        ("    set_router_response_headers(txn, response_body)\n", "    set_headers(txn, response_body)\n"),
        ("local response_body = ", "local text = "),
        ("local function call_router(router,", "local function call_router(pool, router,"),
        ("        .. request_id_header\n", "        .. request_id_line\n"),
        ("call_router(router, body, truncated,", "call_router(router, body, nil,"),
    ],
)
def test_a_moved_line_of_the_router_script_is_refused(routed: str, old: str, new: str) -> None:
    script = Path(script_of(routed) or "").read_text()
    assert old in script
    with pytest.raises(TemplateChanged):
        edit_script(script.replace(old, new), "/run")


def test_the_real_haproxy_accepts_the_edited_file(
    config: str,  # renders the file
    tmp_path: Path,
) -> None:
    done = _wrapped(tmp_path, "-c")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "haproxy.cfg").read_text().startswith(haproxy_wrapper.MARK)


def test_a_configuration_that_cannot_be_edited_stops_the_start_with_a_reason(routed: str, tmp_path: Path) -> None:
    (tmp_path / "haproxy.cfg").write_text(routed.replace("listen stats", "listen statistics"))
    done = _wrapped(tmp_path, "-c")
    assert done.returncode == 1
    assert "the statistics page's bind line: expected once, found 0 times" in done.stderr


@pytest.mark.parametrize("name", ERRORS)
def test_error_bodies_are_error_objects_of_the_api_that_was_called(name: str) -> None:
    openai = json.loads(error_body(name))["error"]
    assert set(openai) == {"message", "type", "param", "code"}
    anthropic = json.loads(error_body(name, ANTHROPIC))
    assert (anthropic["type"], set(anthropic["error"])) == ("error", {"type", "message"})
    assert anthropic["error"]["message"] == openai["message"]


def test_errors_at_the_edge_have_the_types_of_the_same_statuses_behind_it() -> None:
    types: dict[int, set[str]] = {}
    for error in (LearnwareError, *_subclasses(LearnwareError)):
        types.setdefault(error.status, set()).add(error.type)
    edge = {error.status: error.type for error in ERRORS.values()}
    shared = set(edge) & set(types)
    assert shared >= {400, 401, 403, 404, 413, 429, 500, 503}
    assert {status: edge[status] for status in shared if edge[status] not in types[status]} == {}
    known = set.union(*types.values())
    assert {status: kind for status, kind in edge.items() if status >= 500 and kind not in known} == {}


def _subclasses(kind: type[LearnwareError]) -> Iterator[type[LearnwareError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


def _wrapped(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    (folder / "edge.json").write_text(SETTINGS.text())
    command = [*wrapper(folder), *arguments, "-f", str(folder / "haproxy.cfg")]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_the_wrapper_imports_little() -> None:
    """It starts at each reload of HAProxy, in about 40 ms; these modules would each add to that."""
    folder = str(Path(haproxy_wrapper.__file__).parent)
    show = f"import sys; sys.path[:0] = [{folder!r}]; import haproxy_wrapper; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", show]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    assert {"pathlib", "socket", "subprocess", "asyncio", "ray", "pydantic"} & set(loaded) == set()
    ours = {name for name in loaded if name.startswith("serving")}
    assert {name for name in ours if not name.startswith("serving.edge")} == {"serving"}
