"""Random options, configurations and files through the command line: always a plain answer.

Every case ends with exit code 0, 1 or 2, without a traceback or an error that "was not expected",
and with 0 only where something was said. All of them end before a model is trained: they ask for
something that cannot be used, or for a dry run.
"""

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erase.cli.main import main
from erase.config.classifier import ClassifierConfig
from erase.config.concept import ClassConfig, ConceptConfig
from erase.config.ddpm import DDPMConfig
from erase.config.evaluate import EvaluateConfig
from erase.config.fields import field_specs

pytestmark = pytest.mark.fault("fuzzed option or file")
NOTHING = "./nothing"
"""No model: whatever else is given, nothing is loaded."""
SPECIAL = (
    *("", " ", "-", "--", "=", "@", "0", "-1", "1e400", "nan", "inf", "null", "true", "[]", "{}"),
    *("[", "{", "~", "~nobody/x", ".", "..", "/", "/dev/null", "/dev/zero", "/proc/self/mem"),
    *("\x00", "\x1b[31m", "\udcff", "a" * 300, "9" * 30, "{name:>9}", "class:", "indices:.", "*"),
    *("lur@alpha=x", "digits", "three", "mini-sd", "pipe", "file.txt", "config.yaml", "folder"),
)
texts = st.one_of(st.sampled_from(SPECIAL), st.text(max_size=20), st.integers().map(str))
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(SPECIAL), st.text()
)
contents = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
COMMANDS: dict[tuple[str, ...], type] = {
    ("concept", "--model", NOTHING, "--output", "o"): ConceptConfig,
    ("class", "--model", NOTHING, "--output", "o"): ClassConfig,
    ("classifier", "--model", NOTHING, "--output", "o"): ClassifierConfig,
    ("train", "ddpm", "--dataset", "folder", "--data-dir", NOTHING, "--output", "o"): DDPMConfig,
    ("evaluate", "--model", NOTHING, "--output", "o"): EvaluateConfig,
}
FIXED = {"model", "output", "dataset", "data_dir"}


def options(kind: type) -> st.SearchStrategy[list[str]]:
    names = [
        name
        for name, spec in field_specs(kind).items()
        if name not in FIXED and spec.kind is not bool and name != "settings"
    ]
    dashed = st.sampled_from(names).map(lambda name: f"--{name.replace('_', '-')}")
    named = st.tuples(dashed, texts).map(lambda pair: f"{pair[0]}={pair[1]}")
    setting = st.tuples(st.sampled_from(("alpha", "trim", "x", "fid.features")), texts)
    odd = setting.map(lambda pair: f"--set={pair[0]}={pair[1]}")
    return st.lists(st.one_of(named, odd, texts), max_size=4)


def configuration(kind: type) -> st.SearchStrategy[bytes]:
    """A `--config` file: fields with any values, or any text."""
    names = st.one_of(st.sampled_from(list(field_specs(kind))), st.text(max_size=5))
    values = st.dictionaries(names, contents, max_size=4)
    plain = st.one_of(values, contents).map(lambda item: yaml.safe_dump(item).encode())
    return st.one_of(plain, st.binary(max_size=40), st.text(max_size=40).map(encoded))


def encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def run(*arguments: str) -> None:
    shutil.rmtree("o", ignore_errors=True)
    result = CliRunner().invoke(main, list(arguments))
    shown = (arguments, result.output[-600:], result.exception)
    assert result.exit_code in (0, 1, 2), shown
    assert result.exception is None or isinstance(result.exception, SystemExit), shown
    assert "not expected" not in result.output, shown
    assert "Traceback" not in result.output, shown
    assert result.output.strip(), shown
    assert result.exit_code == 0 or "Error" in result.output, shown


@st.composite
def fuzzed(draw: st.DrawFn) -> tuple[list[str], dict[str, bytes]]:
    """A command line and the files that it may name."""
    command, kind = draw(st.sampled_from(list(COMMANDS.items())))
    arguments = [*command, *draw(options(kind))]
    files: dict[str, bytes] = {}
    if kind is not EvaluateConfig and draw(st.booleans()):
        files["config.yaml"] = draw(configuration(kind))
        arguments += ["--config", "config.yaml"]
    files["file.txt"] = draw(st.binary(max_size=20))
    return arguments, files


@st.composite
def folder_fuzz(draw: st.DrawFn) -> tuple[list[str], dict[str, bytes]]:
    """A command that reads a folder of small files, and what is in it."""
    name = draw(st.sampled_from(("record.json", "model_index.json", "model.json", "metrics.json")))
    commands = (
        ("report", "folder"),
        ("export", "folder", "--format", "lora", "--output", "o"),
        ("concept", "--model", "folder", "--concept", "three", "--output", "o"),
        ("evaluate", "--model", "folder", "--target", "three", "--output", "o"),
        ("classifier", "--model", "folder", "--forget", "class:0", "--output", "o"),
        ("verify", "folder"),
        ("verify", f"folder/{name}"),
        ("report", "folder", "folder", "--output", "o"),
        ("concept", "--model", NOTHING, "--concept", "x", "--prompts", "folder", "--output", "o"),
    )
    command = list(draw(st.sampled_from(commands)))
    kinds = st.sampled_from(("evaluation", "concept", "finished", "StableDiffusionPipeline"))
    keys = st.sampled_from(("kind", "status", "_class_name", "id2label", "unet", "target", "facts"))
    near = st.dictionaries(keys, st.one_of(kinds, contents), max_size=5)
    written = st.one_of(near, contents).map(lambda item: encoded(json.dumps(item)))
    content = draw(st.one_of(written, st.binary(max_size=40)))
    files = {f"folder/{name}": content}
    if draw(st.booleans()):
        files["folder/record.json"] = b'{"kind": "evaluation", "status": "finished"}'
        files["folder/metrics.json"] = content
    files["folder/a.yaml"] = draw(configuration(ConceptConfig))
    files["folder/concepts/x.yaml"] = draw(configuration(ConceptConfig))
    return command, files


@st.composite
def table_fuzz(draw: st.DrawFn) -> tuple[list[str], dict[str, bytes]]:
    """A command that reads a table, prompts or captions, and ends with the option after it."""
    ending = draw(st.sampled_from((".csv", ".tsv", ".CSV", ".csv.gz", ".txt", ".jsonl", ".json")))
    cells = st.one_of(
        st.sampled_from(("prompt", "seed", "guidance", "text", '"', '""', "1", "-1", "x" * 300)),
        st.text(max_size=8),
    )
    header = draw(st.sampled_from(("prompt,seed", "prompt;anchor", "x")))
    row = st.lists(cells, min_size=1, max_size=3).map(draw(st.sampled_from((",", ";", "\t"))).join)
    lines = st.lists(row, max_size=4).map(lambda rows: encoded("\n".join([header, *rows])))
    keys = st.sampled_from(("prompt", "text", "anchor", "x"))
    objects = st.lists(st.dictionaries(keys, contents, max_size=3), max_size=3).map(
        lambda rows: encoded("\n".join(map(json.dumps, rows)))
    )
    content = draw(st.one_of(lines, objects, st.binary(max_size=40)))
    if ending.endswith(".gz") and draw(st.booleans()):
        content = gzip.compress(content)[: draw(st.integers(0, 60))]
    name = f"prompts{ending}"
    concept = ("concept", "--model", "mini-sd", "--concept", "three", "--output", "o")
    evaluate = ("evaluate", "--model", "mini-sd", "--suite", "custom", "--no-baseline")
    commands = (
        [*concept, "--forget-prompts", name, "--retain-prompts", "nothing.txt"],
        [*evaluate, "--prompt-table", name, "--metrics", "lpips", "--output", "config.yaml/o"],
    )
    command = draw(st.sampled_from(commands))
    return command, {name: content, "config.yaml": b""}


def attempt(case: tuple[list[str], dict[str, bytes]], root: Path) -> None:
    arguments, files = case
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    try:
        run(*arguments)
    finally:
        for name in files:
            (root / name).unlink()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))
    os.mkfifo("pipe")
    Path("folder").mkdir()
    return tmp_path


def cases(number: int) -> Any:
    return settings(
        max_examples=number,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.timeout(280)
def test_200_command_lines(root: Path) -> None:
    cases(200)(given(fuzzed())(lambda case: attempt(case, root)))()


@pytest.mark.timeout(280)
def test_200_folders(root: Path) -> None:
    cases(200)(given(folder_fuzz())(lambda case: attempt(case, root)))()


@pytest.mark.timeout(280)
def test_100_tables(root: Path) -> None:
    cases(100)(given(table_fuzz())(lambda case: attempt(case, root)))()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_2000_command_lines(root: Path) -> None:
    cases(2000)(given(fuzzed())(lambda case: attempt(case, root)))()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_2000_folders(root: Path) -> None:
    cases(2000)(given(folder_fuzz())(lambda case: attempt(case, root)))()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_1000_tables(root: Path) -> None:
    cases(1000)(given(table_fuzz())(lambda case: attempt(case, root)))()
