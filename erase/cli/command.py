"""What all commands share: options with former names, options named in messages, likely names.

`@command(…)` and `@option(…)` stand for click's own. Underscores in the names of options and
commands count as dashes, as the training scripts of diffusers spell them.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from erase.config.fields import shown
from erase.config.values import unusable_text
from erase.errors import SettingError, likely

CONTEXT: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
    "token_normalize_func": lambda token: token.replace("_", "-"),
}
DIFFUSERS = {
    "--model": ("pretrained-model-name-or-path",),
    "--output": ("output-dir",),
    "--validation-prompts": ("validation-prompt",),
    "--weight-decay": ("adam-weight-decay",),
    "--lora-rank": ("rank",),
    "--render-batch-size": ("sample-batch-size", "eval-batch-size"),
    "--max-grad-norm": ("max-gradient-norm",),
    "--use-8bit-adam": ("use-8-bit-adam",),
}
"""What the training scripts of diffusers call an option, where it is more than its own name."""


class Option(click.Option):
    """An option that also takes former names and those of diffusers' scripts; help shows neither.

    Args:
        former: names without dashes in front.
    """

    def __init__(self, *args: Any, former: Iterable[str] = (), **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        names = [*former, *DIFFUSERS.get(self.opts[0], ())]
        self.former = [f"--{name.replace('_', '-')}" for name in names]

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let the parser know all names."""
        shown = self.opts
        self.opts = [*shown, *self.former]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown


class PathType(click.Path):
    """A path, given as a `Path`; refused where no file can have such a name."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as a path."""
        if why := unusable_text(os.fspath(value), path=True):
            self.fail(f"{shown(os.fspath(value))} {why}.", param, ctx)
        return super().convert(value, param, ctx)


class Command(click.Command):
    """A command whose messages name the option that a bad value was given to."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except SettingError as error:
            for parameter in self.params:
                given = ctx.get_parameter_source(str(parameter.name))
                if parameter.name == error.name and given is ParameterSource.COMMANDLINE:
                    raise error.of_option(parameter.opts[0]) from error
            raise


class Group(click.Group):
    """A group that names the nearest command when there is none of the name."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; the error for an unknown one names the nearest."""
        name = args[0]
        if not name.startswith("-") and not ctx.resilient_parsing:
            spelt = name.replace("_", "-")
            if self.get_command(ctx, spelt) is None:
                known = self.list_commands(ctx)
                hint = likely(name, known) or f"Known: {', '.join(known)}."
                raise click.UsageError(f"There is no command {name!r}. {hint.strip()}", ctx)
        return super().resolve_command(ctx, args)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Inside, no garbage is collected: imports leave none, and looking takes a second of seven."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


command = partial(click.command, cls=Command)
option = partial(click.option, cls=Option)
