# ruff: noqa: PTH100, PTH118, PTH120, PTH123, S606
"""Start HAProxy for Ray Serve with our edge rules: edit the `-f` file that Ray has just written, then exec the binary.

Ray Serve (2.60) writes a complete configuration before every start and every reload and then spawns the program that
`RAY_SERVE_HAPROXY_BINARY_PATH` names (`ray/serve/_private/haproxy.py`, `_start_and_wait_for_haproxy`). That program is
the launcher that `serving.launch.instance.prepare` writes; it calls this file. Nothing of Ray is patched or copied.

The edits, and why each is needed (template: `ray/serve/_private/haproxy_templates.py`, Ray 2.60.0):

* Client headers named `x-serve-router-*` are removed always. Ray removes them only while a router replica runs.
* Only the paths that `serving.names.is_allowed` allows are reached; any other answers 404. The router's own route,
  `/internal`, is none of them. Sources, keys, CORS, bodies and the limits of tenants are dealt with at the head of the
  frontend (`serving.edge.frontend`, `serving.edge.tenants`).
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
* HAProxy's own errors become error objects of the API that was called, with their true status. Ray answers 502, 503 and
  504 as 500, in text. HAProxy 2.8 itself answers what it cannot parse, and a header that never ends, in its own words.
* Every request and every answer has an id, a malformed trace context goes, a valid one also reaches the router, and the
  log is JSON where the logs of all processes are (`serving.edge.correlation`).
* A request is tried once on another replica (`serving.edge.router_rules`), and a stream that a replica's death cuts
  ends with an error event (`serving.edge.cut_streams`).

Every edit names the text that it expects; text that is no longer there makes `edit` raise `TemplateChanged`, the
launcher exits with 1, and Ray reports its stderr as "HAProxy crashed during startup". So a Ray upgrade that moves
something cannot open a hole quietly.

Only cheap standard modules are imported (no pathlib), because this runs at each reload of HAProxy.
"""

import os
import re
import sys
from typing import NoReturn

# It is run as a file, in a bare interpreter: its package is found from here.
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from serving.edge import frontend
from serving.edge.answers import error_map, own_errors, refusal
from serving.edge.correlation import edit_log
from serving.edge.cut_streams import FILTER, edit_cut_streams
from serving.edge.key_maps import current_state, maps, write, write_maps
from serving.edge.router_rules import edit_router_rules, edit_script
from serving.edge.settings import EdgeSettings, read_settings
from serving.edge.template import TemplateChanged, replace, script_of

#: First line of an edited file. Ray writes the file anew before each spawn; should it ever not, one edit is enough.
MARK = "# edited by learnware-serving: serving/edge/haproxy_wrapper.py\n"


def edit(config: str, folder: str, settings: EdgeSettings) -> str:
    """Return Ray's HAProxy configuration with the edge rules in it; an edited one is returned as it is.

    `folder` holds the maps, and the edited router script if there is one (`edit_script`).

    Raises:
        TemplateChanged: a text that an edit expects was not found; the message names it.
    """
    if config.startswith(MARK):
        return config
    admin = settings.admin_host
    config = replace(config, r"(?m)^(    stats socket \S+ mode) 666 ", r"\1 600 ", "the admin socket")
    # A request is tracked by its source, its tenant twice, and all together; HAProxy's default is 3.
    config = replace(config, r"(?m)^(    tune\.bufsize \d+\n)", r"\1    tune.stick-counters 4\n", "the buffers' size")
    config = replace(
        config, r"(?m)^(frontend prometheus\n    bind )\S*:(\d+)$", rf"\g<1>{admin}:\2", "the exporter's bind line"
    )
    config = replace(
        config, r"(?m)^(listen stats\n  bind )\S*:(\d+)$", rf"\g<1>{admin}:\2", "the statistics page's bind line"
    )
    if settings.json_log:
        config = edit_log(config)
    config = _edit_errors(config, folder)
    config = _edit_frontend(config, folder, settings)
    if script_of(config):
        config = edit_cut_streams(edit_router_rules(config, settings.body_wait_s, folder))
    elif "ingress_request_router" in config:
        raise TemplateChanged("router rules stand in a configuration that loads no router script")
    return MARK + config + frontend.tables(settings)


def _edit_errors(config: str, folder: str) -> str:
    rule = r"(?m)^    errorfile 502 (\S+)\n    errorfile 503 \1\n    errorfile 504 \1\n"
    config = replace(config, rule, lambda _: own_errors(folder), "the error files")
    # No application has the prefix "/" yet: the stack is starting. Not a wrong path, so not 404.
    rule = r"(?m)^(backend default_backend\n)    http-request return status 404 .*$"
    answer = refusal("503", folder, "{ always_true }")
    return replace(config, rule, lambda match: f"{match[1]}    {answer}", "the default backend")


def _edit_frontend(config: str, folder: str, settings: EdgeSettings) -> str:
    block = "".join(f"    {rule}\n" for rule in frontend.rules(settings, folder))

    def rewrite(match: "re.Match[str]") -> str:
        address = settings.frontend_host or match[2]
        return f"{match[1]}{address}:{match[3]}{frontend.bind_options(settings)}\n{block}"

    return replace(config, r"(?m)^(frontend http_frontend\n    bind )(\S*):(\d+)\n", rewrite, "the frontend")


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
    write(copy, text + FILTER)
    return edited.replace(f"    lua-load-per-thread {script}\n", f"    lua-load-per-thread {copy}\n") + backends


def _start_watcher(settings_file: str, folder: str, config: str) -> None:
    """Start the program that follows the key file, as a child of the process that is about to become HAProxy."""
    admin_socket = re.search(r"(?m)^    stats socket (\S+) ", config)
    if admin_socket is None:
        raise TemplateChanged("the admin socket is not there")
    haproxy = os.getpid()
    if os.fork():
        return
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        watcher = os.path.join(os.path.dirname(os.path.abspath(__file__)), "key_watcher.py")
        arguments = [settings_file, folder, admin_socket[1], str(haproxy)]
        os.execv(sys.executable, [sys.executable, "-I", "-S", watcher, *arguments])
    finally:
        os._exit(1)


def main(arguments: list[str]) -> NoReturn:
    """Edit the `-f` file, then become `BINARY`: `haproxy_wrapper.py BINARY SETTINGS_FILE <arguments of haproxy>`.

    Exits with 1 and a line on stderr when that cannot be done.
    """
    try:
        binary, settings_file, *rest = arguments
        settings = read_settings(settings_file)
        path = rest[rest.index("-f") + 1]
        folder = os.path.dirname(os.path.abspath(path))
        with open(path) as file:
            config = file.read()
        write(f"{folder}/errors.map", error_map())
        write_maps(maps(settings, current_state(settings, folder)), folder)
        edited = _edit_files(config, folder, settings)
        write(path, edited)
        if settings.keys_file is not None and "-c" not in rest:
            _start_watcher(settings_file, folder, edited)
    except (TemplateChanged, OSError, ValueError, IndexError) as error:
        sys.exit(f"learnware-serving: HAProxy not started, its configuration cannot be edited: {error}")
    # Out of the terminal's process group: HAProxy stops at once on SIGINT, and Ctrl-C must let running streams finish.
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    os.execv(binary, [binary, *rest])


if __name__ == "__main__":
    main(sys.argv[1:])
