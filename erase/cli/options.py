"""Click options made from the configuration dataclasses, so that each is written down once."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from erase.config.base import Config, MethodConfig
from erase.config.methods import canonical
from erase.config.replay import Replay
from erase.errors import InputError
from erase.files import read_yaml

Command = TypeVar("Command", bound=Callable[..., Any])


def config_options(
    config: type[Config],
    *,
    choices: Mapping[str, list[str]] | None = None,
    flags: Mapping[str, str] | None = None,
    skip: frozenset[str] = frozenset(),
) -> Callable[[Command], Command]:
    """Add one option per field of a configuration dataclass.

    An option that is not given is None, so that `resolve` can tell it from one that is; a tuple of
    texts is an option that may be given several times, and empty when it is not.

    Args:
        config: the dataclass; its field metadata are the help texts.
        choices: allowed values of an option, by field name.
        flags: spelling of on/off options where `--name/--no-name` would read badly.
        skip: fields without an option.
    """
    hints = typing.get_type_hints(config)

    def add(command: Command) -> Command:
        for item in reversed(_own_first(config)):
            if item.name in skip or not item.metadata.get("option", True):
                continue
            kind = _plain_type(hints[item.name])
            dashed = item.name.replace("_", "-")
            name = f"--{dashed}"
            keywords: dict[str, Any] = {"default": None, "help": _help(item)}
            if kind is bool:
                name = (flags or {}).get(item.name, f"--{dashed}/--no-{dashed}")
            elif allowed := (choices or {}).get(item.name) or item.metadata.get("choices"):
                keywords["type"] = click.Choice(list(allowed))
            elif kind is tuple:
                keywords |= {"multiple": True, "metavar": "TEXT"}
            else:
                keywords["type"] = kind
            command = click.option(name, item.name, **keywords)(command)
        return command

    return add


def _own_first(config: type[Config]) -> "list[dataclasses.Field[Any]]":
    """Fields with the class's own before the inherited ones, as a reader of --help wants them."""
    fields = dataclasses.fields(config)  # type: ignore[arg-type]
    owners = [vars(kind).get("__annotations__", {}) for kind in config.__mro__]
    return sorted(fields, key=lambda item: [item.name in names for names in owners].index(True))


def _plain_type(hint: Any) -> type:
    if typing.get_origin(hint) is tuple:
        return tuple
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return typing.cast(type, hint)


def _help(item: "dataclasses.Field[Any]") -> str:
    text = str(item.metadata.get("help", ""))
    if item.default in (None, "", ()) or isinstance(item.default, bool):
        return text
    return f"{text}  [default: {item.default}]"


Resolved = TypeVar("Resolved", bound=Config)


def resolve(config: type[Resolved], given: Mapping[str, Any], file: Path | None) -> Resolved:
    """A configuration from a `--config` file, overridden by the options that were given.

    Raises InputError for an unknown setting, or a value of the wrong type or not among the
    possible ones.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = read_yaml(file)
        config.check_names(values, str(file))
    values |= {name: value for name, value in given.items() if value not in (None, ())}
    hints = typing.get_type_hints(config)
    fields = {item.name: item for item in dataclasses.fields(config)}  # type: ignore[arg-type]
    return config(
        **{
            name: _typed(fields[name], _plain_type(hints[name]), value)
            for name, value in values.items()
        }
    )


def _typed(item: "dataclasses.Field[Any]", kind: type, value: Any) -> Any:
    """A value as its field wants it: YAML reads `1e-4` as a word and `no` as false."""
    choices = item.metadata.get("choices")
    if value is False and choices and "no" in choices:
        value = "no"
    if kind is tuple:
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list | tuple) or not all(isinstance(w, str) for w in words):
            raise InputError(f"{item.name} is {value!r}, which is no list of words.", "Quote them.")
        return tuple(words)
    if value is None or kind not in (str, int, float, bool):
        return value
    try:
        typed = kind(value) if kind in (int, float) and not isinstance(value, bool) else value
    except ValueError:
        typed = None
    # A number is never cut short to fit.
    if not isinstance(typed, kind) or (kind is int and typed != float(value)):
        name = {int: "whole number", float: "number", bool: "yes or no", str: "text"}[kind]
        raise InputError(f"{item.name} is {value!r}, which is no {name}.", "Correct the value.")
    if choices and typed not in choices:
        raise InputError(f"{item.name} is {value!r}.", f"Possible: {', '.join(choices)}.")
    return typed


def run_options(command: Command) -> Command:
    """The options of every command that fills a run folder."""
    for decorator in reversed(
        [
            click.option(
                "--output", type=click.Path(path_type=Path), required=True, help="Run folder."
            ),
            click.option(
                "--config",
                type=click.Path(path_type=Path, exists=True, dir_okay=False),
                help="Replay a run's config.yaml; options given here win over it. With another"
                " --method, what came from the run's own method is left out.",
            ),
            click.option(
                "--overwrite", is_flag=True, help="Replace the run that the folder holds."
            ),
            click.option(
                "--resume-from-checkpoint",
                "resume",
                metavar="latest|PATH",
                help="Continue the run that the folder holds.",
            ),
            click.option(
                "--device", help="cpu, cuda, cuda:1, mps, …; default: what accelerate finds."
            ),
        ]
    ):
        command = decorator(command)
    return command


def settings_option(command: Command) -> Command:
    """`--set NAME=VALUE` for the method's own settings; `resolve_run` takes what was given."""
    return click.option(
        "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any setting of the method."
    )(command)


RunConfig = TypeVar("RunConfig", bound=MethodConfig)


def resolve_run(
    config: type[RunConfig],
    given: Mapping[str, Any],
    settings: tuple[str, ...],
    file: Path | None,
) -> tuple[RunConfig, Replay[RunConfig] | None]:
    """`resolve` with `--set` values over the `settings` of the file, as texts.

    They are understood when it is known what family of models the method is for. Where the user
    gave another method than the file's, the file's settings are not taken over; the second result
    then says what the file holds.
    """
    resolved, pairs = resolve(config, given, file), _pairs(settings)
    if file is not None and "method" in read_yaml(file):
        before = resolve(config, {}, file)
        before = before.replace(method=canonical(before.method))
        if canonical(resolved.method) != before.method:
            chosen = {name for name, value in given.items() if value not in (None, ())}
            replay = Replay(file, before, frozenset(chosen | set(pairs)))
            return resolved.replace(settings=pairs), replay
    return resolved.replace(settings={**resolved.settings, **pairs}), None


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text} is not NAME=VALUE.", "Write e.g. --set alpha=0.01.")
        pairs[name.replace("-", "_")] = value
    return pairs
