"""The `erase` group: finds commands lazily and turns expected errors into two plain lines."""

import importlib
import os
import sys
import traceback
from typing import Any

import click

import erase
from erase.errors import EraseError
from erase.runs.processes import Distributed, lacks_processes, start_processes

COMMANDS = {
    "class": "erase.cli.forget_class:forget_class",
    "classifier": "erase.cli.classifier:classifier",
    "compare": "erase.cli.compare:compare",
    "concept": "erase.cli.concept:concept",
    "demo": "erase.cli.demo:demo",
    "doctor": "erase.cli.doctor:doctor",
    "evaluate": "erase.cli.evaluate:evaluate",
    "export": "erase.cli.export:export",
    "fetch": "erase.cli.fetch:fetch",
    "report": "erase.cli.report:report",
    "train": "erase.cli.train:train",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def __init__(self, *args: Any, lazy: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name in self.lazy:
            module, _, name = self.lazy[cmd_name].partition(":")
            command: click.Command = getattr(importlib.import_module(module), name)
            return command
        return super().get_command(ctx, cmd_name)


class Main(LazyGroup):
    """The outermost group: expected errors become a message, a remedy and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; exit 2 for bad input, 1 for a failure while running."""
        try:
            if lacks_processes(os.environ):
                ctx.exit(start_processes(sys.argv[1:]))
            return super().invoke(ctx)
        except EraseError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            if Distributed.launched().is_main:
                click.secho(f"Error: {error.message}", err=True, fg="red")
                if error.remedy:
                    click.echo(error.remedy, err=True)
            ctx.exit(error.exit_code)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise  # a BrokenPipeError is `erase … | head`: click ends without a word
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            click.secho(f"Error: {type(error).__name__}: {error}", err=True, fg="red")
            click.echo("This was not expected; run again with `erase --debug …`.", err=True)
            ctx.exit(1)


@click.command(
    cls=Main,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
@click.version_option(erase.__version__, prog_name="erase")
def main(debug: bool) -> None:
    """Make an image model forget a concept, a class or training samples, and measure it."""


def run() -> None:
    """Entry point of the console script and of `python -m erase`."""
    main(prog_name="erase")
