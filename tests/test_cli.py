"""The command line as a user meets it: help and what it imports, messages, exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from erase.cli.main import COMMANDS, LazyGroup, main
from erase.config.concept import ConceptConfig
from erase.config.resolve import resolve


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(item) for item in arguments])


def every_command(
    group: click.Group, path: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], click.Command]]:
    found: list[tuple[tuple[str, ...], click.Command]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append(((*path, name), command))
        if isinstance(command, click.Group):
            found += every_command(command, (*path, name))
    return found


@pytest.mark.parametrize(("path", "command"), every_command(main), ids=lambda v: str(v))
def test_every_command_and_option_has_help(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(path)} {parameter.opts[0]}"
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.output


@pytest.mark.parametrize(("path", "command"), every_command(main), ids=lambda v: str(v))
def test_help_shows_each_example_on_its_own_line(
    path: tuple[str, ...], command: click.Command
) -> None:
    output = run(*path, "--help").output
    assert "\\b" not in output
    examples = [line for line in map(str.strip, str(command.help).splitlines()) if line]
    examples = [line for line in examples if line.startswith("erase ")]
    assert set(examples) <= set(map(str.strip, output.splitlines()))


def test_commands_are_found_lazily() -> None:
    assert isinstance(main, LazyGroup)
    assert set(COMMANDS) <= set(main.list_commands(click.Context(main)))


MODULES = 400
"""Of 309 to 321 that a help imports; Python itself has 40. `benchmarks.start` measures the time."""


def test_help_imports_little() -> None:
    for arguments in (["--help"], ["concept", "--help"], ["evaluate", "--help"]):
        code = (
            "import sys; from erase.cli.main import main;"
            f"main({arguments!r}, standalone_mode=False);"
            "heavy = {'torch', 'diffusers', 'transformers', 'scipy', 'sklearn', 'numpy', 'PIL',"
            "'accelerate', 'matplotlib', 'optuna', 'rich'} & set(sys.modules);"
            f"few = len(sys.modules) < {MODULES};"
            "sys.exit(' '.join(heavy) or (0 if few else f'{len(sys.modules)} modules'))"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert result.returncode == 0, result.stderr.decode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--model", "no-such-model"], "There is no model 'no-such-model'"),
        (["--concept", "thirteen"], "There is no concept 'thirteen'"),
        (["--method", "lurr"], "There is no method named 'lurr'"),
        (["--max-train-steps", "0"], "--max-train-steps is 0"),
        (["--alpha", "-1"], "--alpha is -1"),
        (["--alpha", "inf"], "--alpha is inf"),
        (["--method", "scrub"], "not defined for text-to-image"),
        (["--lr-scheduler", "zigzag"], "--lr-scheduler is 'zigzag'"),
        (["--resolution", "33"], "--resolution is 33"),
        (["--device", "nonsense"], "The device 'nonsense' is not there"),
        (["--use-8bit-adam"], "--use-8bit-adam needs bitsandbytes"),
        (["--resume-from-checkpoint", "checkpoint-9"], "There is no run in"),
        (["--trainable", "nothing-like-it"], "matches no parameter"),
        (["--forget-prompts", "absent.txt"], "absent.txt cannot be read"),
        (["--forget-images", "absent"], "absent is not a folder"),
        (["--model", "someone/never-downloaded"], "is not on this machine"),
    ],
)
def test_bad_input_is_one_message_and_exit_2(
    tmp_path: Path, changes: list[str], message: str
) -> None:
    output = tmp_path / "out"
    arguments = ["--model", "mini-sd", "--concept", "three", "--output", str(output)]
    tiny = ["--num-forget-images", "2", "--num-retain-images", "2", "--render-steps", "1"]
    result = run("concept", *arguments, *tiny, *changes)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_nothing_is_touched_before_the_input_is_checked(tmp_path: Path) -> None:
    result = run(
        "concept", "--model", "mini-sd", "--concept", "thirteen", "--output", tmp_path / "x"
    )
    assert result.exit_code == 2
    assert not (tmp_path / "x").exists()


def test_broken_image_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (32, 32)).save(folder / "good.png")
    (folder / "broken.png").write_bytes(b"\x89PNG not really")
    (folder / "good.txt").write_text("a three")
    (folder / "broken.txt").write_text("a three")
    result = run(
        *("concept", "--model", "mini-sd", "--concept", "three"),
        *("--forget-images", folder, "--output", tmp_path / "out"),
    )
    assert result.exit_code == 2
    assert "broken.png is not a readable image" in result.output
    assert not (tmp_path / "out").exists()


def test_empty_prompt_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    result = run(
        *("concept", "--model", "mini-sd", "--concept", "three"),
        *("--retain-prompts", empty, "--output", tmp_path / "out"),
    )
    assert result.exit_code == 2
    assert "empty.txt holds no prompt" in result.output


def test_a_folder_with_something_in_it_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    arguments = ("concept", "--model", "mini-sd", "--concept", "three", "--output", tmp_path)
    plain = run(*arguments)
    assert plain.exit_code == 2
    assert "is not empty" in plain.output
    forced = run(*arguments, "--overwrite")
    assert forced.exit_code == 2
    assert "is no erase run of this kind" in forced.output
    resumed = run(*arguments, "--resume-from-checkpoint", "latest")
    assert resumed.exit_code == 2
    assert "holds no concept run to resume" in resumed.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_dry_run_prints_the_plan_and_touches_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = run(
        *("concept", "--model", "mini-sd", "--concept", "three", "--output", output, "--dry-run"),
    )
    assert result.exit_code == 0, result.output
    assert "method: lur" in result.output
    assert "learning_rate:" in result.output
    assert "null" not in result.output.split("max_train_steps")[1].splitlines()[0]
    assert not output.exists()


def test_joint_is_another_name_for_lur_b(tmp_path: Path) -> None:
    output = tmp_path / "out"
    common = ("--model", "mini-sd", "--concept", "three", "--output", output, "--dry-run")
    result = run("concept", *common, "--method", "joint")
    assert result.exit_code == 0, result.output
    assert "method: lur-b" in result.output


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "erase", "--debug", "concept", "--model", "nothing"]
    result = subprocess.run(
        [*command, "--concept", "three", "--output", str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert "There is no model 'nothing'" in result.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rate: fast", "which is no number"),
        ("max_train_steps: 1.5", "which is no whole number"),
        ("save_dtype: bf16", "save_dtype is 'bf16'"),
    ],
)
def test_config_values_are_checked(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(line + "\n")
    result = run("concept", "--config", file, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.output


def test_config_values_take_the_type_they_are_meant_to_have(tmp_path: Path) -> None:
    """YAML reads 1e-4 as a word and a bare `no` as false."""
    file = tmp_path / "config.yaml"
    file.write_text("learning_rate: 1e-4\nmixed_precision: no\nmax_train_steps: 3\n")
    resolved = resolve(ConceptConfig, {"caption_dropout": 0}, file)
    assert resolved.learning_rate == 1e-4
    assert resolved.mixed_precision == "no"
    assert isinstance(resolved.caption_dropout, float)


def test_unknown_setting_in_a_config_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("learning_rat: 0.1\n")
    result = run("concept", "--config", file, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "unknown settings: learning_rat" in result.output
