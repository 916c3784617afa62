"""Ray Serve's file for a configuration (`serve deploy`, `serve run`), with the configuration's content in it.

Serve deploys an application anew when its arguments differ from those deployed before, and knows nothing of files that
they name. So the content itself is the argument: `learnware-serving serve-file --config FILE` writes what differs from
the defaults into each application's `args.config`, and a changed limit is a changed application. A path is taken as
well; then a change of the file alone changes nothing.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from serving.config import Config, load_config
from serving.names import (
    APPLICATION,
    CONSOLE_APPLICATION,
    CONSOLE_PATH,
    DECISIONS_APPLICATION,
    MARKET_APPLICATION,
    METRICS_APPLICATION,
    TASKS_APPLICATION,
)
from specs.errors import InvalidConfig

ARGUMENTS = ("config", "digest")
"""Names of the arguments of each application. `digest` is any text; another one deploys the application anew."""

_APPLICATIONS = (
    (APPLICATION, "/", "serving.app:build"),
    (METRICS_APPLICATION, "/metrics", "serving.serve_builders:metrics"),
    (CONSOLE_APPLICATION, CONSOLE_PATH.rstrip("/"), "serving.serve_builders:console"),
    (MARKET_APPLICATION, "/v1/learnwares", "serving.serve_builders:market"),
    (TASKS_APPLICATION, "/v1/task-specs", "serving.serve_builders:task_specs"),
    (DECISIONS_APPLICATION, "/v1/decisions", "serving.serve_builders:decisions"),
)
"""Name, route prefix and import path of each application. Those of market and tasks need `market.path`."""
_NEED_A_MARKET = frozenset({MARKET_APPLICATION, TASKS_APPLICATION})

_HEAD = """\
# For Ray's own commands, `serve run FILE` or `serve deploy FILE`. Printed by
#
#   learnware-serving serve-file{option}
#
# Every node of the cluster must have been started with the variables that this prints there:
#
#   learnware-serving environment{option}
#
# Each application's argument is the configuration's content (what differs from the defaults), so that deploying a
# changed one replaces the replicas, one by one: print the file anew after a change. Paths in it are those of the nodes.
"""
_NO_MARKET = """\
#
# Without market.path, a folder that all nodes see, there is no application for the market or for task specifications.
"""


def configured(arguments: Mapping[str, Any]) -> Config:
    """Reads an application's arguments: `config` is a mapping with the keys of a configuration, or the path of a YAML
    file; without it the defaults hold.

    Raises:
        InvalidConfig: an argument is unknown, or the configuration is wrong.
    """
    unknown = sorted(set(arguments) - set(ARGUMENTS))
    if unknown:
        raise InvalidConfig(f"unknown argument {unknown[0]} of the application; valid here: {', '.join(ARGUMENTS)}")
    given = arguments.get("config")
    if given is None or isinstance(given, Mapping):
        return load_config(None, given)
    if not isinstance(given, str):
        raise InvalidConfig(f"args.config must be a mapping or the path of a file, not a {type(given).__name__}")
    print(
        f"the configuration is read from {given}: Ray Serve does not see when that file changes. After a change deploy "
        "with another args.digest, or with the content in args.config, as `learnware-serving serve-file` writes it"
    )
    return load_config(Path(given))


def serve_file(config: Config, name: str | None = None) -> str:
    """Returns the text of Ray Serve's file. `name` is the configuration's file, for the commands in the comment; None:
    the defaults."""
    option = "" if name is None else f" --config {shlex.quote(name)}"
    with_market = config.market.folder is not None
    left_out = set() if with_market else set(_NEED_A_MARKET)
    if not config.console.enabled:
        left_out.add(CONSOLE_APPLICATION)
    if not config.decisions.enabled:
        left_out.add(DECISIONS_APPLICATION)
    # Each has the same object, so YAML writes it once, as an anchor, and refers to it.
    content = {"config": config.model_dump(mode="json", exclude_defaults=True)}
    deployed = {
        "proxy_location": "EveryNode",
        "http_options": {"host": config.http.host, "port": config.http.port},
        **({"logging_config": {"encoding": "JSON"}} if config.traces.logs == "json" else {}),
        "applications": [
            {"name": application, "route_prefix": prefix, "import_path": path, "args": content}
            for application, prefix, path in _APPLICATIONS
            if application not in left_out
        ],
    }
    text: str = yaml.safe_dump(deployed, sort_keys=False, allow_unicode=True, width=120)
    return f"{_HEAD.format(option=option)}{'' if with_market else _NO_MARKET}\n{text}"
