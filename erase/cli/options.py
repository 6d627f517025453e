"""Click options made from the configuration dataclasses, so that each is written down once."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from erase import registry
from erase.cli.command import PathType, option
from erase.cli.completion import complete
from erase.config.base import META_MODES, Config
from erase.config.families import methods_for
from erase.config.fields import FieldSpec, field_specs

Command = TypeVar("Command", bound=Callable[..., Any])
METAVARS = {int: "INTEGER", float: "FLOAT", str: "TEXT", tuple: "TEXT"}


class Possible(click.Choice[str]):
    """Possible values for the help and for completion; the configuration checks what is given."""

    def normalize_choice(self, choice: object, ctx: click.Context | None) -> str:  # noqa: ARG002
        """The value itself: its underscores are no dashes."""
        return str(choice)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ARG002
        """The value as it was given."""
        return value


def together(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several decorators as one, the first outermost, so that `--help` keeps their order."""

    def add(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return add


def settings_option(metavar: str, text: str) -> Callable[[Command], Command]:
    """`--set`, which may be given several times."""
    return option("--set", "settings", multiple=True, metavar=metavar, help=text)


def config_options(
    config: type[Config],
    *,
    flags: Mapping[str, str] | None = None,
    spellings: Mapping[str, str] | None = None,
    listed: frozenset[str] = frozenset(),
    skip: frozenset[str] = frozenset(),
    required: frozenset[str] = frozenset(),
) -> Callable[[Command], Command]:
    """Add one option per field of a configuration dataclass.

    Values stay texts; the configuration converts and checks them. An option that is not given is
    None, or an empty tuple if it may be given several times, so `resolve` can leave it out.

    Args:
        config: the dataclass; its field metadata are the help texts.
        flags: spelling of on/off options where `--name/--no-name` would read badly.
        spellings: options whose name differs from their field's, by field.
        listed: fields of several texts that one option takes, separated by commas.
        skip: fields without an option.
        required: fields whose option has to be given.
    """
    specs = field_specs(config)
    options = []
    for item in _ordered_fields(config):
        if item.name in skip or not item.metadata.get("option", True):
            continue
        name, keywords = _option(config, item, specs[item.name], flags or {})
        name = (spellings or {}).get(item.name, name)
        if item.name in listed:
            keywords["multiple"] = False
        if item.name in required:
            keywords["required"] = True
        elif item.metadata.get("required"):
            keywords["help"] += "  [required, here or in --config]"
        options.append(option(name, item.name, **keywords))
    return together(*options)


def _option(
    config: type[Config], item: "dataclasses.Field[Any]", spec: FieldSpec, flags: Mapping[str, str]
) -> tuple[str, dict[str, Any]]:
    """Spelling and keywords of a field's option."""
    dashed = item.name.replace("_", "-")
    keywords: dict[str, Any] = {
        "default": None,
        "help": _help(config, item),
        "former": item.metadata.get("former", ()),
        "shell_complete": complete(item.name, config),
    }
    if spec.kind is bool:
        return flags.get(item.name, f"--{dashed}/--no-{dashed}"), {**keywords, "is_flag": True}
    if spec.choices:
        keywords["type"] = Possible(list(spec.choices))
    else:
        keywords |= {"type": str, "multiple": spec.kind is tuple}
        keywords["metavar"] = item.metadata.get("metavar") or METAVARS[spec.kind]
    return f"--{dashed}", keywords


def _ordered_fields(config: type[Config]) -> "list[dataclasses.Field[Any]]":
    """Fields in the order of --help: the class's own before the inherited ones."""
    fields = dataclasses.fields(config)  # type: ignore[arg-type]
    owners = [vars(kind).get("__annotations__", {}) for kind in config.__mro__]
    return sorted(fields, key=lambda item: [item.name in names for names in owners].index(True))


def _help(config: type[Config], item: "dataclasses.Field[Any]") -> str:
    text = str(item.metadata.get("help", ""))
    if item.name in config.recipe_help:
        return f"{text}  [{config.recipe_help[item.name]}]"
    if item.default in (None, "", ()) or isinstance(item.default, bool):
        return text
    return f"{text}  [default: {item.default}]"


def names_of(text: str | None) -> tuple[str, ...]:
    """The names in the text of an option that takes several, separated by commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


device_option = option(
    "--device", help="cpu, cuda, cuda:1, mps, …; default: what accelerate finds."
)
run_options = together(
    option("--output", type=PathType(), required=True, help="Run folder."),
    option(
        "--config",
        type=PathType(exists=True, dir_okay=False),
        help="Replay a run's config.yaml; options given here win over it. With another"
        " --method, what came from the run's own method is left out.",
    ),
    option("--overwrite", is_flag=True, help="Replace the run that the folder holds."),
    option(
        "--resume-from-checkpoint",
        "resume",
        metavar="latest|latest-whole|PATH",
        help="Continue the run that the folder holds; latest-whole passes over damaged checkpoints"
        " and makes a damaged result again.",
    ),
    device_option,
)
"""The options of every command that fills a run folder."""


def settings_options(**helps: str) -> Callable[[Command], Command]:
    """Add `--set NAME=VALUE` for the method's settings, and an option of its own for some of them.

    `given_settings` joins their values.

    Args:
        helps: help texts of the settings that have an option of their own, by name.
    """
    options = []
    for name, text in helps.items():
        kind: dict[str, Any] = {"metavar": "FLOAT"}
        if name == "meta_mode":
            kind = {"type": Possible(list(META_MODES))}
        text = f"{text}  [default: the method's]"
        options.append(option(f"--{name.replace('_', '-')}", **kind, help=text))
    return together(*options, settings_option("NAME=VALUE", "Any setting of the method."))


def methods_epilog(*families: str) -> str:
    """The end of a command's help: the methods for any of the families, and what each does."""
    lines = [f"  {name}: {registry.summary('methods', name)}" for name in methods_for(*families)]
    return "\n".join(("\b\nMethods:", *lines))
