"""The `scaleevent` command. Each command imports what it needs when it runs."""

from __future__ import annotations

import sys

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


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit code 2."""
    try:
        app()
    except ScaleEventError as error:
        sys.stderr.write(f"scaleevent: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
