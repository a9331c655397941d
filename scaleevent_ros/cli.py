"""The `scaleevent` command. Each command imports what it needs when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from scaleevent_ros.errors import ScaleEventError

app = typer.Typer(
    name="scaleevent",
    help="Dense features from event cameras: record, pretrain, perceive.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Keep `scaleevent COMMAND` the form, however many commands there are."""


@app.command()
def doctor(
    folder: Annotated[Path, typer.Option(help="Where you would record to.")] = Path(),
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Look at this machine and say what is wrong, each with its mend."""
    from scaleevent_ros import doctor as examination

    findings = examination.examine(folder.resolve())
    if json:
        typer.echo(examination.to_json(findings))
    else:
        examination.print_table(findings)
    raise typer.Exit(0 if examination.main_job_can_run(findings) else 1)


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit code 2."""
    try:
        app()
    except ScaleEventError as error:
        sys.stderr.write(f"scaleevent: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
