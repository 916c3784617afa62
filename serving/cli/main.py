"""`learnware-serving`: the one console command. Each subcommand lives with what it does and is imported when it
runs."""

import argparse
import importlib
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from serving.cli.spec import add_parser as add_spec_parser
from serving.cli.vector import add_parser as add_vector_parser
from specs.errors import InvalidLearnware, LearnwareError

INTERRUPTED = 130
"""The shell's exit status for a command ended by Ctrl-C: 128 + SIGINT."""

_COMMAND_MODULES = (
    "serving.base_model",
    "serving.cli.train",
    "serving.cli.market",
    "serving.cli.feedback",
    "serving.cli.learnware",
    "serving.cli.keys",
    "serving.cli.decisions",
    "serving.cli.evaluations",
)
"""Modules that add subcommands of their own through `add_parser(subparsers)`; importing them is cheap."""


def say(message: str) -> None:
    """One line of progress, at once."""
    print(message, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand. Errors that the project raises on purpose end it with one line and status 1, not with a
    traceback."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except LearnwareError as error:
        print(f"learnware-serving: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="learnware-serving", description="Serves many learnwares over one base model."
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = subparsers.add_parser("serve", help="start the stack and serve until Ctrl-C or SIGTERM")
    _add_configuration(serve)
    serve.add_argument("--host", help="address to listen on (over the configuration's http.host)")
    serve.add_argument("--port", type=int, help="port of the OpenAI endpoint (over http.port)")
    serve.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        help="allow a host other than loopback without any API key (over http.insecure)",
    )
    _add_strict(serve)
    serve.set_defaults(run=_serve)

    environment = subparsers.add_parser(
        "environment", help="print the variables that Ray must find when it starts (for `ray start` and `serve run`)"
    )
    _add_configuration(environment)
    environment.set_defaults(run=_environment)

    check = subparsers.add_parser(
        "check", help="validate a configuration, its learnwares and the engine's arguments, without starting anything"
    )
    _add_configuration(check)
    _add_strict(check)
    check.set_defaults(run=_check)

    serve_file = subparsers.add_parser(
        "serve-file", help="print the file that Ray's `serve deploy` takes, with a configuration's content in it"
    )
    _add_configuration(serve_file)
    serve_file.set_defaults(run=_serve_file)

    config = subparsers.add_parser(
        "config", help="print the default configuration: every key with its default and what it means"
    )
    config.set_defaults(run=_config)

    for name in _COMMAND_MODULES:
        importlib.import_module(name).add_parser(subparsers)
    add_vector_parser(add_spec_parser(subparsers))
    return parser


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, help="YAML file; default: the embedded base and starter learnwares on CPU"
    )


def _add_strict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strict",
        action="store_true",
        help="a learnware that cannot be served is an error (default: it is named and left out, the rest is served)",
    )


def _load(options: argparse.Namespace) -> Any:
    from serving.config import load_config

    given = {key: getattr(options, key, None) for key in ("host", "port", "insecure")}
    http = {key: value for key, value in given.items() if value is not None}
    return load_config(options.config, {"http": http} if http else None)


def _serve(options: argparse.Namespace) -> int:
    from serving.launch.stack import serve
    from serving.tracing.logs import JSON, say_json

    config = _load(options)
    if config.traces.logs != JSON:
        return serve(config, say, strict=options.strict)
    tell = say_json("launcher")
    try:
        return serve(config, tell, strict=options.strict)
    except LearnwareError as error:
        tell(str(error), "ERROR")
        return 1


def _environment(options: argparse.Namespace) -> int:
    from serving.launch.stack import cluster_environment

    for name, value in sorted(cluster_environment(_load(options)).items()):
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from serving.launch.edge_settings import check_exposure
    from serving.requirements import examined_learnwares

    config = _load(options)
    check_exposure(config)
    examined = examined_learnwares(config, config.market.folder)
    if options.strict and examined.unserved:
        raise InvalidLearnware("; ".join(each.reason for each in examined.unserved))
    _check_engine(config)
    for learnware in examined.served:
        print(f"{learnware.id}  version {learnware.version}, rank {learnware.rank}, {learnware.domain}")
    for each in examined.unserved:
        print(f"not served: {each.reason}", file=sys.stderr)
    left_out = f", {len(examined.unserved)} not served" if examined.unserved else ""
    print(f"the configuration is valid; {len(examined.served)} learnwares over {config.base_model.served_id}{left_out}")
    return 0


def _check_engine(config: Any) -> None:
    """Has vLLM build its configuration; where it cannot, for lack of vLLM, the device or the base model, says so."""
    from serving.base_model import ensure_base_model
    from serving.engine_check import CannotCheck, check_in_a_process
    from serving.paths import cache_folder

    source, revision = config.base_model.source, config.base_model.revision
    try:
        check_in_a_process(config, lambda: ensure_base_model(source, cache_folder(), say, revision))
    except CannotCheck as reason:
        print(f"the engine's arguments were not checked: {reason}", file=sys.stderr)


def _serve_file(options: argparse.Namespace) -> int:
    from serving.serve_file import serve_file

    config = _load(options)
    if config.api_keys or config.market.admin_key:
        print(
            "the file holds keys in plain text, which Ray's dashboard shows; keys.file and the environment variables "
            "LEARNWARE_API_KEYS and LEARNWARE_ADMIN_KEY keep them out of it",
            file=sys.stderr,
        )
    name = None if options.config is None else str(options.config)
    sys.stdout.buffer.write(serve_file(config, name).encode())
    return 0


def _config(_options: argparse.Namespace) -> int:
    from serving.config_file import default_file

    # as configurations are read, whatever the terminal's encoding: some patterns are Chinese
    sys.stdout.buffer.write(default_file().encode())
    return 0
