"""The router's part of the edge: which requests ask a router, what becomes of its answer, how routers are reached, and
one more try on another replica."""

import re

from serving.edge.answers import refusal
from serving.edge.correlation import TRACE_HEADERS
from serving.edge.frontend import ROUTER_HEADER_PREFIX
from serving.edge.template import TemplateChanged, replace

#: Why a request comes without a choice: `router_timeout` (2 s), or Ray's own `router_unreachable` (its 3 s),
#: `router_non_200` (none there, or failed), `unparseable_replica_id`, `unknown_replica_id`; the last two have one.
ROUTER_FAILED_HEADER = ROUTER_HEADER_PREFIX + "failed"

#: HAProxy variable with the seconds after which a refused request may come again, as the router said.
_REFUSED = "txn.edge_retry_after"

#: A request is tried once more, on another replica, when the first refused the connection, closed it without an answer,
#: answered 502, by which it says that its engine died or hung before the first token, or 503: its engine or the
#: request's adapter could not serve, and nothing was generated. HAProxy keeps the request for that in one buffer
#: (`serving.launch.environment.FORWARDED_BODY_BYTES`): a larger one is not tried again.
_RETRY = """    retries 1
    option redispatch 1
    retry-on conn-failure empty-response 502 503
"""


def edit_retries(config: str) -> str:
    """Return the configuration with the retry rule in the backends of each application that has a router.

    Raises:
        TemplateChanged: a backend was not found.
    """
    for name in re.findall(r"(?m)^backend (\S+)-via-ingress-request-router$", config):
        for backend in (name, f"{name}-via-ingress-request-router"):
            head = rf"(?m)^(backend {re.escape(backend)}\n    log global\n)"
            config = replace(config, head, lambda match: match[1] + _RETRY, f"the backend {backend}")
    return config


def edit_router_rules(config: str, body_wait_s: int, folder: str) -> str:
    """Return the configuration with the router asked for generating paths alone, its refusals passed on, and a request
    whose router fails sent on without a choice.

    Raises:
        TemplateChanged: a text that an edit expects was not found; the message names it.
    """
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
    config = replace(config, wait, rf"\1 {body_wait_s}s if {' or '.join(posts)}", "the wait for the body")
    failed = "var(txn.ingress_request_router_failed)"
    told = (
        f"    {refusal('429', folder, f'{{ var({_REFUSED}) -m found }}')}\n"
        f"    http-request set-header {ROUTER_FAILED_HEADER} %[{failed}] if {{ {failed} -m found }}"
    )
    rule = (
        r'(?m)^    http-request return status 503 content-type text/plain lf-string "Ingress request router failed: .*'
    )
    return edit_retries(replace(config, rule, lambda _: told, "the 503 rule for a failing router"))


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

    script = replace(script, block, rewrite, "the router script's table of routers")
    if not backends:
        raise TemplateChanged("the router script names no router")
    once, twice = r"(?m)^(        if response)( then\n            break)$", r"\1 and is_answer(response)\2"
    script = replace(script, once, twice, "the router script's loop over routers")
    function = r"(?m)^(?=local function http_response_body\b)"
    script = replace(script, function, lambda _: _ANSWERS, "the router script's functions")
    failed = r"""(?m)^(        txn:set_var\("txn\.ingress_request_router_failed", )("router_non_200"\))$"""
    script = replace(
        script, failed, lambda m: f'{_WHY_NOT_200}{m[1]}late and "router_timeout" or {m[2]}', "the script's failures"
    )
    script = _with_trace_headers(script)
    # What was chosen is set before it turns out whether the replica is known.
    setting = "    set_router_response_headers(txn, response_body)\n"
    script = replace(script, rf"(?m)^{re.escape(setting)}", "", "the router script's setting of headers")
    body = r"(?m)^(    local response_body = http_response_body\(response\)\n)"
    script = replace(script, body, lambda match: match[1] + setting, "the router script's reading of the answer")
    return script, "".join(backends)


def _with_trace_headers(script: str) -> str:
    """Return the script with the trace context sent to the router: Ray's own sends the request's id alone."""
    function = r"(?m)^local function call_router\(router, body, truncated_length, session_id, request_id\)$"
    script = replace(
        script,
        function,
        lambda _: (
            f"{_TRACE_LINES}local function call_router(router, body, truncated_length, session_id, request_id, trace)"
        ),
        "the router script's call",
    )
    sent = r"(?m)^(        \.\. request_id_header\n)"
    script = replace(script, sent, r"\1        .. trace\n", "the router script's request")
    call = r"call_router\(router, body, truncated, session_id, request_id\)"
    return replace(
        script,
        call,
        "call_router(router, body, truncated, session_id, request_id, trace_lines(hdrs))",
        "the router's call",
    )


#: Lua function that returns the header lines of a request's trace context.
_TRACE_LINES = f"""local function trace_lines(headers)
    local lines = ""
    for _, name in ipairs({{{", ".join(f'"{name}"' for name in TRACE_HEADERS)}}}) do
        local values = headers and headers[name]
        local number = 0
        while values and values[number] do
            lines = lines .. name .. ": " .. values[number] .. "\\r\\n"
            number = number + 1
        end
    end
    return lines
end

"""


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
