"""One name for a setting, everywhere; former names and those of diffusers' scripts still work."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from erase.cli.command import Option
from erase.cli.main import main
from erase.config.base import Config
from erase.config.classifier import ClassifierConfig, TrainConfig, fill
from erase.config.compare import CompareDiffusionConfig, settings_by_line
from erase.config.concept import ClassConfig, ConceptConfig
from erase.config.ddpm import DDPMConfig
from erase.config.evaluate import EvaluateConfig
from erase.config.families import CLASSIFIER, methods_for
from erase.config.resolve import resolve
from erase.errors import InputError, likely
from erase.runs.run_folder import RunFolder
from tests.test_cli import every_command

COMMANDS = every_command(main)
LEAVES = [(path, command) for path, command in COMMANDS if not isinstance(command, click.Group)]
SYNONYMS = [
    # Names of one idea, the name of today first.
    {"--resolution", "--size", "--image-size"},
    {"--render-steps", "--num-inference-steps"},
    {"--render-batch-size", "--batch-size"},
    {"--lr-scheduler", "--schedule"},
    {"--baseline", "--base", "--control"},
    {"--output", "--output-dir"},
    {"--model", "--pretrained-model-name-or-path"},
]
JARGON = {
    # A term of the help, and what has to stand near it.
    r"\bD_r\b": "retain set",
    r"\bDualOptim:": "optimizers",
    r"\bxattn\b": "cross-attention",
    r"\bhvp \(": "finite differences",
    r"\bfirst-order \(": "no Hessian",
}

OPTIONAL = {"compare", "doctor", "fetch", "report"}
"""Commands that have such options for other uses, or can do without."""


def options(command: click.Command) -> list[Option]:
    return [item for item in command.params if isinstance(item, Option)]


def help_of(path: tuple[str, ...]) -> str:
    return " ".join(CliRunner().invoke(main, [*path, "--help"]).output.split())


def text_of(option: Option, command: click.Command) -> str:
    record = option.get_help_record(click.Context(command))
    return record[1] if record else ""


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=lambda v: str(v))
def test_the_help_of_every_command(path: tuple[str, ...], command: click.Command) -> None:
    """Defaults of recipes and needed options are marked, terms explained, old names hidden."""
    text = help_of(path)
    shown = {name for option in options(command) for name in option.opts}
    for names in SYNONYMS:
        assert len(names & shown) <= 1, names & shown
    for option in options(command):
        for former in option.former:
            assert not re.search(rf"(^| ){former}\b(?!-)", text), former
        needed = option.name in ("model", "concept", "target", "forget", "output")
        if needed and not (option.required or "default: " in text_of(option, command)):
            assert "[required" in str(option.help) or path[0] in OPTIONAL, (path, option.opts)
    for term, near in JARGON.items():
        for found in re.finditer(term, text):
            assert near in text[max(0, found.start() - 60) : found.end() + 80], (path, term)


def test_defaults_of_recipes_say_so() -> None:
    text = help_of(("concept",))
    assert "Optimizer steps. [recipe: 100 (150 up to 64 pixels); see --dry-run]" in text
    assert "[recipe: full; see --dry-run]" in text
    for kind, path in (
        (ConceptConfig, ("concept",)),
        (ClassConfig, ("class",)),
        (ClassifierConfig, ("classifier",)),
        (DDPMConfig, ("train", "ddpm")),
    ):
        text = help_of(path)
        assert kind.recipe_help
        for default in kind.recipe_help.values():
            assert f"[{default}]".replace(" ", "") in text.replace(" ", "")


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=lambda v: str(v))
def test_every_former_name_is_read(path: tuple[str, ...], command: click.Command) -> None:
    for option in options(command):
        for name in (*option.former, option.opts[0]):
            words = [name.replace("-", "_").replace("__", "--", 1)]
            words += [] if option.is_flag else ["7"]
            context = click.Context(command, token_normalize_func=lambda w: w.replace("_", "-"))
            values, _, _ = command.make_parser(context).parse_args(words)
            given = values[str(option.name)]
            assert given == (["7"] if option.multiple else given if option.is_flag else "7")


@pytest.mark.parametrize(
    ("kind", "former", "now"),
    [
        (EvaluateConfig, "size", "resolution"),
        (EvaluateConfig, "steps", "render_steps"),
        (EvaluateConfig, "batch_size", "render_batch_size"),
        (TrainConfig, "image_size", "resolution"),
        (TrainConfig, "schedule", "lr_scheduler"),
        (ClassifierConfig, "schedule", "lr_scheduler"),
        (DDPMConfig, "image_size", "resolution"),
        (CompareDiffusionConfig, "steps", "evaluation_steps"),
    ],
)
def test_a_file_of_an_earlier_version(
    kind: type[Config], former: str, now: str, tmp_path: Path
) -> None:
    value: Any = "cosine" if former == "schedule" else 64
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({former: value}))
    expected = kind(**{now: value})
    assert resolve(kind, {}, file) == expected
    assert resolve(kind, {former: value}, None) == expected
    assert resolve(kind, {now: value}, file) == expected
    other = "constant" if former == "schedule" else 32
    assert getattr(resolve(kind, {now: other}, file), now) == other
    with pytest.raises(InputError, match=f"{now} is given twice"):
        resolve(kind, {former: value, now: other}, None)


def test_a_run_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    values = TrainConfig(lr_scheduler="cosine", resolution=32).to_dict()
    values["schedule"] = values.pop("lr_scheduler")
    values["image_size"] = values.pop("resolution")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "record.json").write_text('{"kind": "train classifier", "status": "running"}')
    folder = RunFolder(
        *(tmp_path, "train classifier", TrainConfig(lr_scheduler="cosine", resolution=32)),
        resume="latest",
    )
    assert folder.continues()


def test_settings_of_an_earlier_version() -> None:
    assert settings_by_line(["retrain.schedule=cosine"]) == {"retrain": {"lr_scheduler": "cosine"}}
    assert fill(ClassifierConfig(method="retrain"), "cifar10", 0.1).lr_scheduler == "multistep"


def test_prompts_are_a_folder_and_a_table_is_a_table(tmp_path: Path) -> None:
    table = tmp_path / "own.txt"
    table.write_text("prompt\n")
    for file in ("i2p.csv", "i2p.csv.gz", str(table)):
        config = resolve(EvaluateConfig, {"prompts": file}, None)
        assert (config.prompts, config.prompt_table) == (None, file)
    config = resolve(EvaluateConfig, {"prompts": str(tmp_path)}, None)
    assert (config.prompts, config.prompt_table) == (str(tmp_path), None)
    with pytest.raises(InputError, match="--prompts and --prompt-table"):
        resolve(EvaluateConfig, {"prompts": str(tmp_path), "prompt_table": "i2p.csv"}, None)


@pytest.mark.parametrize(
    ("command", "option", "typed", "offered"),
    [
        ("concept", "--method", "lu", {"lur", "lur-b", "lur-guard"}),
        ("classifier", "--method", "", {*methods_for(CLASSIFIER)}),
        ("concept", "--concept", "thr", {"three"}),
        ("concept", "--concept", "van", {"van gogh"}),
        ("class", "--target", "golf", {"golf ball"}),
        ("concept", "--model", "sd", {"sd-1.4", "sd-1.5", "sd-2.1", "sdxl"}),
        ("evaluate", "--suite", "c", {"cifar10", "coco", "custom"}),
        ("evaluate", "--metrics", "fid,l", {"fid,lpips"}),
        ("classifier", "--metrics", "idi,", {"idi,relearn", "idi,rmia"}),
        ("fetch", "--suite", "imag", {"imagenette"}),
        ("doctor", "--model", "mini", {"mini-sd"}),
        ("concept", "--lr-scheduler", "cosine_", {"cosine_with_restarts"}),
    ],
)
def test_a_shell_is_offered(command: str, option: str, typed: str, offered: set[str]) -> None:
    complete = ShellComplete(main, {}, "erase", "_ERASE_COMPLETE")
    found = {item.value for item in complete.get_completions([command, option], typed)}
    assert offered <= found
    assert all(value.startswith(typed) for value in found)
    if option == "--method":
        assert found == offered


def test_a_dry_run_says_where_values_come_from(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("{max_train_steps: 7, settings: {forget_weight: 0.25}}")
    result = CliRunner().invoke(
        main,
        [
            *("concept", "--model", "mini-sd", "--concept", "three", "--dry-run", "--seed", "3"),
            *("--alpha", "0.02", "--config", str(file), "--output", str(tmp_path / "out")),
        ],
    )
    assert result.exit_code == 0, result.output
    rows = dict(re.findall(r"^# from (.+?): (.+)$", result.output, re.MULTILINE))
    lines = {name: set(text.split(", ")) for name, text in rows.items()}
    assert lines["the command line"] == {"model", "concept", "seed", "alpha"}
    assert lines[str(file)] == {"max_train_steps", "forget_weight"}
    assert {"learning_rate", "train_batch_size", "render_steps"} <= lines["32 pixels"]


def test_likely_names() -> None:
    known = ["lur-b", "salun", "sd-1.4"]
    for name, meant in {"LUR_B": "lur-b", "sal un": "salun", "sd14": "sd-1.4"}.items():
        assert likely(name, known) == f"Did you mean {meant!r}? "
    assert not likely("zzz", known)
