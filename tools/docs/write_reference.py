"""Generate the reference pages of the documentation from the code. `make docs` runs this.

Parameters come from the nodes' declarations, fields from the docstrings and defaults of the
configuration's dataclasses, commands from the command line's own parser.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from docstring_parser import parse as parse_docstring

from scaleevent_ros.cli import app
from scaleevent_ros.distill.configuration import Pretraining
from scaleevent_ros.nodes.parameters import (
    INPUTS,
    LIVE,
    PerceptionParameters,
    RecorderParameters,
    ReplayParameters,
    SimulateParameters,
    described,
)
from scaleevent_ros.tasks.evaluation import EvaluationOptions
from scaleevent_ros.tasks.finetune import Finetuning

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"
PARAMETERS = """\
# Parameters of the nodes

<!-- Written by tools/docs/write_reference.py: edit what it describes, not this page. -->

Each is a ROS parameter of its node and a launch argument of the same name. A value comes from the
argument, else from the launch argument `params_file` (the node's file in `config/`), else it is
the default. `namespace` is the launch argument for the node's namespace. Parameters that may change
while the node runs are marked *live*. The perception node refuses changes of its other parameters
unless it is unconfigured; the recorder applies changes when it is configured the next time.
"""
CONFIGURATION = """\
# Fields of the configurations

<!-- Written by tools/docs/write_reference.py: edit what it describes, not this page. -->

A run reads `--config FILE.yaml`; `--any.field value` overrides the file. `--print_config` prints
the resulting values of all fields.
"""
COMMANDS = """\
# Commands

<!-- Written by tools/docs/write_reference.py: edit what it describes, not this page. -->

An expected error is one line on stderr and exit code 2. `scaleevent COMMAND --help` prints the same
text.
"""
WORDS = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    types.NoneType: "none",
    Any: "anything",
}


def pages() -> dict[str, str]:
    """Render all pages, by file name."""
    return {
        "parameters.md": parameters_page(),
        "configuration.md": configuration_page(),
        "commands.md": commands_page(),
    }


def parameters_page() -> str:
    """Render the parameters of the nodes."""
    parts = [PARAMETERS]
    nodes: list[tuple[str, str, type[object], frozenset[str]]] = [
        ("scaleevent_recorder", "record", RecorderParameters, frozenset()),
        ("scaleevent_perception", "perception", PerceptionParameters, LIVE),
        ("scaleevent_replay", "replay", ReplayParameters, frozenset()),
        ("scaleevent_simulate", "simulate", SimulateParameters, frozenset()),
    ]
    for node, launch, kind, live in nodes:
        parts += [f"## `{node}`\n", f"Launch file: `{launch}.launch.py`.\n"]
        rows = [
            (
                f"`{each.name}`",
                shown(each.default),
                each.description + (" *Live.*" if each.name in live else ""),
            )
            for each in described(kind)
        ]
        parts.append(table(("parameter", "default", "meaning"), rows))
        if kind is PerceptionParameters:
            parts.append("Launch arguments that remap the topics to which it subscribes:\n")
            topics = [(f"`{name.removeprefix('~/')}`", text) for name, text in INPUTS.items()]
            parts.append(table(("argument", "meaning"), topics))
    return "\n".join(parts)


def configuration_page() -> str:
    """Render the fields of the runs' configurations."""
    parts = [CONFIGURATION]
    runs: list[tuple[str, type[object]]] = [
        ("scaleevent pretrain", Pretraining),
        ("scaleevent finetune", Finetuning),
        ("scaleevent evaluate", EvaluationOptions),
    ]
    described_at: dict[type[object], str] = {}
    for command, kind in runs:
        parts.append(f"## `{command}`\n")
        documents = documentation(kind)
        run = command.removeprefix("scaleevent ")
        own = [row for row in field_rows(kind, "") if "." not in row[0]]
        if own:
            parts.append(table(("field", "type", "default", "meaning"), own))
        for name, section in typing.get_type_hints(kind).items():
            if not (isinstance(section, type) and dataclasses.is_dataclass(section)):
                continue
            parts += [f"### {run}: `{name}`\n", documents[name] + "\n"]
            if section in described_at:
                first = described_at[section]
                parts.append(f"Fields as in [{first}: `{name}`](#{first}-{name}).\n")
                continue
            described_at[section] = run
            parts.append(
                table(("field", "type", "default", "meaning"), field_rows(section, f"{name}."))
            )
    return "\n".join(parts)


def field_rows(kind: type[Any], prefix: str) -> Iterator[tuple[str, ...]]:
    """List the fields of a dataclass, with those of nested dataclasses in place."""
    hints, documents = typing.get_type_hints(kind), documentation(kind)
    for field in dataclasses.fields(kind):
        hint, name = hints[field.name], f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hint):
            yield from field_rows(typing.cast("type[Any]", hint), f"{name}.")
            continue
        yield f"`{name}`", in_words(hint), shown(default_of(field)), documents[field.name]
        for inner in get_args(hint):
            if dataclasses.is_dataclass(inner):
                yield from field_rows(typing.cast("type[Any]", inner), f"{name}[].")


def documentation(kind: type[object]) -> dict[str, str]:
    """Return the descriptions of a dataclass's fields in its docstring.

    Raises:
        KeyError: If a field is not documented.
    """
    said = {
        each.arg_name: " ".join((each.description or "").split()).replace("``", "`")
        for each in parse_docstring(kind.__doc__ or "").params
    }
    return {field.name: said[field.name] for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # as in nodes/parameters.py


def default_of(field: dataclasses.Field[Any]) -> object:
    """Return a field's default, or `MISSING`."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def in_words(hint: Any) -> str:
    """Describe a type for readers."""
    if hint in WORDS:
        return WORDS[hint]
    if dataclasses.is_dataclass(hint):
        return "entry"
    inner = [in_words(each) for each in get_args(hint)]
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    if get_origin(hint) is list:
        return f"list: {inner[0]}"
    if get_origin(hint) is tuple:
        return f"{len(inner)} of: {inner[0]}"
    if get_origin(hint) is dict:
        return "mapping"
    return " or ".join(inner)


def shown(value: object) -> str:
    """Format a default as in YAML and on the command line."""
    if value is dataclasses.MISSING:
        return "*required*"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (list, tuple)):
        return f"`[{', '.join(str(each) for each in value)}]`"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`" if value != "" else '`""`'


def commands_page() -> str:
    """Render the commands and their options."""
    parts = [COMMANDS]
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        rows = []
        for each in command.params:
            options = " / ".join(f"`{text}`" for text in (*each.opts, *each.secondary_opts))
            named = f"`{each.name.upper()}`" if each.param_type_name == "argument" else options
            default = "*required*" if each.required else shown(each.default)
            rows.append((named, default, each.help))
        parts += [f"## `scaleevent {name}`\n", command.help + "\n"]
        if rows:
            parts.append(table(("", "default", "meaning"), rows))
        else:
            page = "pretrain" if name == "cache-teacher" else name
            parts.append(f"Fields: [`scaleevent {page}`](configuration.md#scaleevent-{page}).\n")
    return "\n".join(parts)


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Render a Markdown table; bars in cells are escaped."""
    lines = [list(titles)]
    lines += [["---"] * len(lines[0])]
    lines += [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> int:
    """Write the pages; return the exit code."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
