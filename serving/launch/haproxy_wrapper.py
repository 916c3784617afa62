# ruff: noqa: PTH100, PTH105, PTH118, PTH120, PTH123, S606
"""Start HAProxy for Ray Serve with our edge rules: edit the `-f` file that Ray has just written, then exec the binary.

Ray Serve (2.60) writes a complete configuration before every start and every reload and then spawns the program that
`RAY_SERVE_HAPROXY_BINARY_PATH` names (`ray/serve/_private/haproxy.py`, `_start_and_wait_for_haproxy`). That program is
the launcher that `serving.launch.instance.prepare` writes; it calls this file. Nothing of Ray is patched or copied.

The edits, and why each is needed (template: `ray/serve/_private/haproxy_templates.py`, Ray 2.60.0):

* Client headers named `x-serve-router-*` are removed always. Ray removes them only while a router replica runs.
* `/internal` answers 404: the router's own route is not for clients.
* A router-bearing application's prefix `/` matches every path, so every POST would call the router: one that explains a
  choice, uploads a specification or counts tokens would leave the trace of a request that was answered. Only paths that
  generate ask the router, and of them none of an application with a longer prefix.
* A router that has too much to decide answers 429 with `Retry-After`; both are passed on.
* The rule that answers 503 when the router fails goes. The request then reaches a replica without a choice, which knows
  what the request asks for and so whether it needs one; why there is none is told in the header
  `x-serve-router-failed`, and a router that took the request and did not answer is told from one that is not there.
* What a router chose is kept when it names no replica, or one that HAProxy does not know yet.
* The router is asked through a backend of its own. When a router has died, Ray's Lua action waits 3 s (HAProxy's fixed
  retries for Lua sockets) before it turns to the next. A backend checks the routers and tries another one at once; with
  no router left it answers 503 at once. Ray's script asks no second time when a router fails with the request in hand;
  ours does, since choosing has no effects.
* A slow upload gets its own patience; Ray uses the router's time limit for both.
* The exporter and the statistics page, which Ray opens to everybody, listen on the configured address; the admin socket
  is ours alone.
* The frontend may listen on another address than Serve's own, so that on one machine replicas stay on loopback behind
  a public frontend.
* HAProxy's own errors become OpenAI error objects with their true status. Ray answers 502, 503 and 504 as 500, in text.

Every edit names the text that it expects; text that is no longer there makes `edit` raise `TemplateChanged`, the
launcher exits with 1, and Ray reports its stderr as "HAProxy crashed during startup". So a Ray upgrade that moves
something cannot open a hole quietly.

Only cheap standard modules are imported (no pathlib), because this runs at each reload of HAProxy.
"""

import os
import re
import sys
from collections.abc import Callable
from typing import NamedTuple, NoReturn

#: First line of an edited file. Ray writes the file anew before each spawn; should it ever not, one edit is enough.
MARK = "# edited by learnware-serving: serving/launch/haproxy_wrapper.py\n"

#: The router's headers (`SERVE_INGRESS_ROUTER_HEADER_PREFIX`, ray/serve/_private/constants.py:451).
ROUTER_HEADER_PREFIX = "x-serve-router-"

#: Why a request comes without a choice: `router_timeout` (2 s), or Ray's own `router_unreachable` (its 3 s),
#: `router_non_200` (none there, or failed), `unparseable_replica_id`, `unknown_replica_id`; the last two have one.
ROUTER_FAILED_HEADER = ROUTER_HEADER_PREFIX + "failed"

#: HAProxy's own errors, as OpenAI error objects: status → (reason phrase, error type, message); each of these statuses
#: may have an `errorfile` in HAProxy 2.8.
ERRORS = {
    400: ("Bad Request", "invalid_request_error", "The request is not valid HTTP."),
    403: ("Forbidden", "permission_error", "The request was refused at the edge."),
    404: ("Not Found", "invalid_request_error", "There is no such path."),
    408: ("Request Timeout", "timeout_error", "The request did not arrive in time."),
    413: ("Content Too Large", "invalid_request_error", "The request body is too large."),
    429: (
        "Too Many Requests",
        "rate_limit_error",
        "More requests than can be decided on in time. Try again when Retry-After says, or name a model.",
    ),
    500: ("Internal Server Error", "server_error", "The proxy met an internal error."),
    501: ("Not Implemented", "invalid_request_error", "The proxy does not support this request."),
    502: ("Bad Gateway", "server_error", "The replica closed the connection or sent an invalid answer."),
    503: ("Service Unavailable", "server_error", "No replica is ready to answer; try again shortly."),
    504: ("Gateway Timeout", "server_error", "The replica did not answer in time."),
}


class TemplateChanged(Exception):
    """Raised when the configuration does not hold the text that an edit expects: Ray is not the version this was
    written for."""


def error_body(status: int) -> str:
    """Return the OpenAI error object, as JSON, for one of HAProxy's own errors."""
    _, kind, message = ERRORS[status]
    return f'{{"error": {{"message": "{message}", "type": "{kind}", "param": null, "code": {status}}}}}'


def write_error_files(folder: str) -> None:
    """Write `<status>.http`, complete raw responses for HAProxy's `errorfile`, into `folder`."""
    for status, (phrase, _, _) in ERRORS.items():
        body = error_body(status)
        head = (f"HTTP/1.1 {status} {phrase}", "Content-Type: application/json", f"Content-Length: {len(body)}")
        with open(os.path.join(folder, f"{status}.http"), "w", newline="") as file:
            file.write("\r\n".join((*head, "", body)))


class EdgeSettings(NamedTuple):
    """The settings of the edits; written as positional arguments into the launcher, in this order."""

    frontend_host: str
    """Address of the frontend; an empty one keeps Serve's own."""
    admin_host: str
    """Address of the exporter and of the statistics page."""
    body_wait_s: int
    """Seconds that a request body may take to arrive."""
    max_body_bytes: int
    """Largest body in bytes that a client may announce; 0 sets no limit."""
    generating_paths: str
    """Paths below an application's prefix for which the router is asked, separated by spaces (`serving.names`)."""


def edit(config: str, folder: str, settings: EdgeSettings) -> str:
    """Return Ray's HAProxy configuration with the edge rules in it; an edited one is returned as it is.

    `folder` holds what `write_error_files` wrote, and the edited router script if there is one (`edit_script`).

    Raises:
        TemplateChanged: a text that an edit expects was not found; the message names it.
    """
    if config.startswith(MARK):
        return config
    admin = settings.admin_host
    config = _replace(config, r"(?m)^(    stats socket \S+ mode) 666 ", r"\1 600 ", "the admin socket")
    config = _replace(
        config, r"(?m)^(frontend prometheus\n    bind )\S*:(\d+)$", rf"\g<1>{admin}:\2", "the exporter's bind line"
    )
    config = _replace(
        config, r"(?m)^(listen stats\n  bind )\S*:(\d+)$", rf"\g<1>{admin}:\2", "the statistics page's bind line"
    )
    config = _edit_errors(config, folder)
    config = _edit_frontend(config, folder, settings)
    if script_of(config):
        config = _edit_router_rules(config, settings.body_wait_s)
    elif "ingress_request_router" in config:
        raise TemplateChanged("router rules stand in a configuration that loads no router script")
    return MARK + config


def _replace(config: str, pattern: str, replacement: "str | Callable[[re.Match[str]], str]", what: str) -> str:
    """Replace exactly one match.

    Raises:
        TemplateChanged: there is none, or more than one.
    """
    config, count = re.subn(pattern, replacement, config)
    if count != 1:
        raise TemplateChanged(f"{what}: expected once, found {count} times ({pattern})")
    return config


def _edit_errors(config: str, folder: str) -> str:
    files = "".join(f"    errorfile {status} {folder}/{status}.http\n" for status in ERRORS)
    rule = r"(?m)^    errorfile 502 (\S+)\n    errorfile 503 \1\n    errorfile 504 \1\n"
    config = _replace(config, rule, lambda _: files, "the error files")
    # No application has the prefix "/" yet: the stack is starting. Not a wrong path, so not 404.
    rule = r"(?m)^(backend default_backend\n    http-request return) status 404 .*$"
    return _replace(config, rule, lambda m: f"{m[1]} status 503 errorfile {folder}/503.http", "the default backend")


def _edit_frontend(config: str, folder: str, settings: EdgeSettings) -> str:
    rules = [
        f"http-request del-header {ROUTER_HEADER_PREFIX} -m beg",
        # Decoded first, as the application server behind does: %69nternal is /internal there.
        "acl edge_internal path,url_dec -m beg -i /internal/",
        "acl edge_internal path,url_dec -m str -i /internal",
        f"http-request return status 404 errorfile {folder}/404.http if edge_internal",
        f"acl edge_generates path,url_dec -m str {settings.generating_paths}",
    ]
    if settings.max_body_bytes:
        large = f"{{ req.hdr_val(content-length) gt {settings.max_body_bytes} }}"
        rules.append(f"http-request return status 413 errorfile {folder}/413.http if {large}")
    block = "".join(f"    {rule}\n" for rule in rules)

    def rewrite(match: "re.Match[str]") -> str:
        return f"{match[1]}{settings.frontend_host or match[2]}:{match[3]}\n{block}"

    return _replace(config, r"(?m)^(frontend http_frontend\n    bind )(\S*):(\d+)\n", rewrite, "the frontend")


def _edit_router_rules(config: str, body_wait_s: int) -> str:
    # Ray lists backends by decreasing length of prefix: an application listed before this one has a longer prefix.
    names = re.findall(r"(?m)^    acl is_(\S+) path_beg ", config)
    flag = r"(?m)^(    http-request set-var\(txn\.ingress_request_router_app\) str\((\S+)\) if is_\2)( !\{.*)$"

    posts: list[str] = []

    def narrow(match: "re.Match[str]") -> str:
        longer = "".join(f" !is_{name}" for name in names[: names.index(match[2])])
        posts.append(f"METH_POST is_{match[2]}{longer}")
        return f"{match[1]} edge_generates{longer}{match[3]}"

    config = re.sub(flag, narrow, config)
    if not posts:
        raise TemplateChanged(f"the router flag: not found ({flag})")
    # Also where the router is not asked: a slow upload waits here and not in a replica.
    wait = r"(?m)^(    http-request wait-for-body time) \d+s if METH_POST has_ingress_request_router_app$"
    config = _replace(config, wait, rf"\1 {body_wait_s}s if {' or '.join(posts)}", "the wait for the body")
    failed = "var(txn.ingress_request_router_failed)"
    told = (
        f"    http-request return status 429 content-type application/json string '{error_body(429)}'"
        f" hdr Retry-After %[var({_REFUSED})] if {{ var({_REFUSED}) -m found }}\n"
        f"    http-request set-header {ROUTER_FAILED_HEADER} %[{failed}] if {{ {failed} -m found }}"
    )
    rule = (
        r'(?m)^    http-request return status 503 content-type text/plain lf-string "Ingress request router failed: .*'
    )
    return _replace(config, rule, lambda _: told, "the 503 rule for a failing router")


def script_of(config: str) -> str | None:
    """Return the path of the router script that a configuration loads, None if it loads none."""
    match = re.search(r"(?m)^    lua-load-per-thread (\S+)$", config)
    return match[1] if match else None


def edit_script(script: str, folder: str) -> tuple[str, str]:
    """Return Ray's router script, with a socket in `folder` in the place of each list of routers, and the text of the
    HAProxy backends behind these sockets.

    Raises:
        TemplateChanged: a text that an edit expects was not found; the message names it.
    """
    backends: list[str] = []

    def through_backend(match: "re.Match[str]") -> str:
        addresses = re.findall(r'\{ host = "([^"]+)", port = (\d+), host_header = "[^"]*" \}', match[2])
        if not addresses or len(addresses) != match[2].count("{"):
            raise TemplateChanged(f"the routers in the router script: {match[2]}")
        socket = f"{folder}/router{len(backends)}"
        servers = "".join(
            f"    server {host}-{port} {host}:{port} check inter 500ms fall 1 rise 1\n" for host, port in addresses
        )
        backends.append(_ROUTER_BACKEND.format(name=match[1], socket=socket, servers=servers))
        entry = f'{{ host = "unix@{socket}", port = 0, host_header = "router" }}'
        return f'["{match[1]}"] = {{ {entry}, {entry} }}'  # twice: two attempts

    block = r"(?ms)^local ROUTERS = \{\n(.*?)^\}\n"

    def rewrite(match: "re.Match[str]") -> str:
        return f"local ROUTERS = {{\n{re.sub(_ROUTERS_OF_ONE, through_backend, match[1])}}}\n"

    script = _replace(script, block, rewrite, "the router script's table of routers")
    if not backends:
        raise TemplateChanged("the router script names no router")
    once, twice = r"(?m)^(        if response)( then\n            break)$", r"\1 and is_answer(response)\2"
    script = _replace(script, once, twice, "the router script's loop over routers")
    function = r"(?m)^(?=local function http_response_body\b)"
    script = _replace(script, function, lambda _: _ANSWERS, "the router script's functions")
    failed = r"""(?m)^(        txn:set_var\("txn\.ingress_request_router_failed", )("router_non_200"\))$"""
    script = _replace(
        script, failed, lambda m: f'{_WHY_NOT_200}{m[1]}late and "router_timeout" or {m[2]}', "the script's failures"
    )
    # What was chosen is set before it turns out whether the replica is known.
    setting = "    set_router_response_headers(txn, response_body)\n"
    script = _replace(script, rf"(?m)^{re.escape(setting)}", "", "the router script's setting of headers")
    body = r"(?m)^(    local response_body = http_response_body\(response\)\n)"
    script = _replace(script, body, lambda match: match[1] + setting, "the router script's reading of the answer")
    return script, "".join(backends)


#: HAProxy variable with the seconds after which a refused request may come again, as the router said.
_REFUSED = "txn.edge_retry_after"

#: Lua functions by which a router's refusal counts as an answer: the other routers have as much to do.
_ANSWERS = r"""local function retry_after(response)
    if response:match("^HTTP/[%d%.]+ 429") then
        return response:lower():match("\r\nretry%-after: *(%d+)\r\n")
    end
end

local function is_answer(response)
    return is_http_200(response) or retry_after(response) ~= nil
end

"""

_WHY_NOT_200 = f"""        local seconds = retry_after(response)
        if seconds then
            txn:set_var("{_REFUSED}", seconds)
            return
        end
        local late = response:match("^HTTP/[%d%.]+ 504") ~= nil
"""

_ROUTERS_OF_ONE = r'(?m)\["([^"]+)"\] = \{ (.*) \}(?=,?$)'

#: Between Ray's Lua action and an application's routers. HAProxy waits for the connect timeout before it tries the same
#: server again, hence a short one. Only refused connections are tried again: for anything more HAProxy 2.8 keeps a copy
#: of each request in a buffer as large as the largest body, which cost 1 ms of CPU a request against 0.34 ms in all. A
#: new connection each time costs no more than a kept one, which a router could close just when it is used. No server
#: state is taken over a reload: a router that starts on the port of a dead one would begin as down.
_ROUTER_BACKEND = """listen edge-router-{name}
    bind unix@{socket} mode 600
    no log
    load-server-state-from-file none
    timeout connect 200ms
    timeout server 2s
    balance roundrobin
    http-reuse never
    option redispatch 1
    retries 3
    retry-on conn-failure
{servers}"""


def _edit_files(config: str, folder: str, settings: EdgeSettings) -> str:
    """Apply `edit`, and write an edited copy of the router script; a copy, since Ray compares its own with what it
    would write."""
    script = script_of(config)
    edited = edit(config, folder, settings)
    if script is None or config.startswith(MARK):
        return edited
    with open(script) as file:
        text, backends = edit_script(file.read(), folder)
    copy = f"{folder}/edge.lua"
    _write(copy, text)
    return edited.replace(f"    lua-load-per-thread {script}\n", f"    lua-load-per-thread {copy}\n") + backends


def _write(path: str, text: str) -> None:
    """Write a file whole or not at all."""
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)


def main(arguments: list[str]) -> NoReturn:
    """Edit the `-f` file, then become `BINARY`: `haproxy_wrapper.py BINARY <EdgeSettings> <arguments of haproxy>`.

    Exits with 1 and a line on stderr when that cannot be done.
    """
    try:
        binary, frontend_host, admin_host, body_wait_s, max_body_bytes, generating_paths, *rest = arguments
        settings = EdgeSettings(frontend_host, admin_host, int(body_wait_s), int(max_body_bytes), generating_paths)
        path = rest[rest.index("-f") + 1]
        folder = os.path.dirname(os.path.abspath(path))
        with open(path) as file:
            config = file.read()
        write_error_files(folder)
        _write(path, _edit_files(config, folder, settings))
    except (TemplateChanged, OSError, ValueError, IndexError) as error:
        sys.exit(f"learnware-serving: HAProxy not started, its configuration cannot be edited: {error}")
    # Out of the terminal's process group: HAProxy stops at once on SIGINT, and Ctrl-C must let running streams finish.
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    os.execv(binary, [binary, *rest])


if __name__ == "__main__":
    main(sys.argv[1:])
