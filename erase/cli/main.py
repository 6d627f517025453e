"""The `erase` group: finds commands lazily and turns expected errors into two plain lines."""

import importlib
import os
import shlex
import traceback
from collections.abc import MutableMapping
from typing import Any, NoReturn

import click

import erase
from erase.cli.command import CONTEXT, Group, command, option
from erase.config.fields import shown
from erase.config.values import unusable_text
from erase.errors import EraseError, Interrupted, one_line, visible
from erase.runs.processes import (
    Distributed,
    LostProcessError,
    lacks_processes,
    launcher_complains,
    reason,
    start_processes,
)
from erase.runs.signals import LAUNCHED, end_with_parent, interruptible

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
    "verify": "erase.cli.verify:verify",
}


class LazyGroup(Group):
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


RESUME = "--resume-from-checkpoint"


class Main(LazyGroup):
    """The outermost group: expected errors become a message, a remedy and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments for the processes and the resumption; refuse what is no text."""
        self.given = list(args)
        for text in args:
            if why := unusable_text(text):
                raise click.UsageError(f"{shown(text)} {why}.", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; exit 2 for bad input, 1 for a failure, 128 + number after a signal."""
        try:
            end_with_parent()
            with interruptible():
                count = ctx.params.get("processes") or 1
                if lacks_processes(os.environ) or (count > 1 and "RANK" not in os.environ):
                    _leave(ctx, start_processes(self.given, count if count > 1 else None))
                return super().invoke(ctx)
        except Interrupted as error:
            if Distributed.launched().is_main:
                click.secho(f"{error}.", err=True, fg="red")
                if error.held:
                    click.echo(f"Go on with: {self._again(ctx)}", err=True)
            _leave(ctx, error.exit_code)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise  # a BrokenPipeError is `erase … | head`: click ends without a word
        except Exception as error:
            debug = ctx.params.get("debug")
            known = reason(error)
            if known is None and debug:
                raise
            if debug:
                traceback.print_exc()
            if known is None:
                click.secho(
                    f"Error: {type(error).__name__}: {one_line(str(error))}", err=True, fg="red"
                )
                click.echo("This was not expected; run again with `erase --debug …`.", err=True)
            elif _speaks(error, known):
                click.secho(f"Error: {one_line(known.message)}", err=True, fg="red")
                if known.remedy:
                    click.echo(visible(known.remedy), err=True)
            _leave(ctx, known.exit_code if known else 1)

    def _again(self, ctx: click.Context) -> str:
        """The command that goes on where this one was interrupted."""
        command: click.Command | None = self
        for word in self.given:
            if isinstance(command, click.Group):
                command = command.get_command(ctx, word) or command
        words = [word for word in self.given if word != "--overwrite"]
        resumes = any(RESUME in option.opts for option in (command.params if command else ()))
        if resumes and not any(word.startswith(RESUME) for word in words):
            words += [RESUME, "latest"]
        launched = any(name in os.environ for name in LAUNCHED[1:]) and "--processes" not in words
        launch = "accelerate launch … -m " if launched else ""
        return f"{launch}erase {shlex.join(words)}"


def _speaks(error: Exception, known: EraseError) -> bool:
    """Whether this process prints the error: what all processes know, the first one says."""
    if isinstance(known, LostProcessError):
        return known.speaks
    return Distributed.launched().is_main or not isinstance(error, EraseError)


def _leave(ctx: click.Context, code: int) -> NoReturn:
    if code and launcher_complains():
        click.echo(
            "accelerate adds a traceback of its own, which says nothing more; `erase --processes N"
            " …` and `accelerate launch --quiet …` do without.",
            err=True,
        )
    ctx.exit(code)


@command(
    cls=Main,
    lazy=COMMANDS,
    context_settings=CONTEXT,
)
@option("--debug", is_flag=True, help="Show the full traceback of an error.")
@option(
    "--processes",
    type=click.IntRange(1),
    metavar="N",
    help="Start N processes on this machine that share the work, as `accelerate launch` does.",
)
@click.version_option(erase.__version__, prog_name="erase")
def main(debug: bool, processes: int | None) -> None:
    """Make an image model forget a concept, a class or training samples, and measure it."""


def rest_soon(environment: MutableMapping[str, str]) -> None:
    """Let waiting threads of libgomp, which torch brings, turn 10,000 times before they sleep.

    Their own 300,000 turns take the core from whoever is to finish on a busy machine
    (benchmarks/thread_waiting.py). It is read when torch is imported; a user's setting stays.
    """
    if not any(name in environment for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")):
        environment["GOMP_SPINCOUNT"] = "10000"


def run() -> None:
    """Entry point of the console script and of `python -m erase`."""
    rest_soon(os.environ)
    main(prog_name="erase")
