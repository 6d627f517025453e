"""The benchmarks ask for what the commands can do, and count what these leave."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks import (
    classifier_cpu,
    classifier_faces,
    compare,
    diffusion_tuning,
    emoji_sequence,
)
from erase.cli.main import main
from erase.comparison.diffusion_report import summarise
from erase.comparison.pool import COSTS
from erase.files import append_jsonl, read_json, write_json
from tests.report_world import row


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    for person in range(10):
        (folder / f"s{person}").mkdir()
        for number in range(10):
            image = Image.fromarray(np.full((11, 9), 20 * person + number, np.uint8))
            image.save(folder / f"s{person}" / f"{number}.pgm")
    return folder


def given(output: Path, *, part: bool, **more: object) -> argparse.Namespace:
    parser = compare.classifier_parser("", str(output), data="", jobs=1, search=6)
    return argparse.Namespace(**{**vars(parser.parse_args([])), "slice": part, **more})


def dry_run(words: list[str]) -> str:
    assert words[1:3] == ["-m", "erase"]
    result = CliRunner().invoke(main, [*words[3:], "--dry-run"], prog_name="erase")
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(("part", "runs", "lines"), [(False, 84, 14), (True, 6, 3)])
def test_the_faces(faces: Path, tmp_path: Path, part: bool, runs: int, lines: int) -> None:
    words = classifier_faces.command(given(tmp_path / "out", part=part, data_dir=faces))
    text = dry_run(words)
    assert f"runs: {runs} (2 forget sets, {1 if part else 3} trials, {lines} lines)" in text
    assert not (tmp_path / "out").exists()


def test_one_forget_set_alone(faces: Path, tmp_path: Path) -> None:
    only = given(tmp_path / "out", part=False, data_dir=faces, forget=["classes:50%"], trials=1)
    assert "(1 forget sets, 1 trials" in dry_run(classifier_faces.command(only))


@pytest.mark.parametrize("part", [False, True])
def test_the_options_of_the_cpu_table(tmp_path: Path, part: bool) -> None:
    words = classifier_cpu.command(given(tmp_path / "out", part=part, shadow_models=2))
    # CIFAR is not here; the digits have as many pixels, and fewer images.
    there = {"cifar10": "digits", "1000": "100", "class:cat": "class:3"}
    assert "(3 forget sets" in dry_run([there.get(word, word) for word in words])


def test_costs_are_summed_by_line(tmp_path: Path) -> None:
    for kind, label, seconds in (
        *(("run", "lur@alpha=0.1", 1.0), ("run", "lur", 2.0), ("run", "ft", 0.5)),
        *(("retrain", "retrain", 7.0), ("search", "lur", 4.0)),
    ):
        row = {"kind": kind, "label": label, "processor_s": seconds}
        append_jsonl(tmp_path / COSTS, row)
    sums = {"retrain": 7.0, "search lur": 4.0, "run lur": 3.0, "run ft": 0.5}
    assert list(compare.costs(tmp_path).items()) == list(sums.items())
    assert compare.run_and_count([sys.executable, "-c", "exit(3)"], tmp_path) == 3
    assert read_json(tmp_path / "costs.json", dict) == sums


def test_a_chain_takes_each_run_as_the_next_ones_model(tmp_path: Path) -> None:
    asked = argparse.Namespace(slice=False, requests=3, output=tmp_path)
    chain = emoji_sequence.commands(tmp_path / "lur-0", "lur", 0, asked)
    models = [words[words.index("--model") + 1] for words in chain]
    runs = [str(tmp_path / "lur-0" / str(number)) for number in (1, 2, 3)]
    assert models == ["mini-emoji", runs[0], runs[0], runs[1], runs[1], runs[2]]
    assert [words[3] for words in chain] == ["concept", "evaluate"] * 3
    assert "cat" in dry_run(chain[0])


def test_a_chain_goes_on_after_what_ended(tmp_path: Path) -> None:
    count = [sys.executable, "-c", f"open({str(tmp_path / 'count')!r}, 'a').write('x')", "-"]
    with pytest.raises(RuntimeError, match=r"1\.log"):
        emoji_sequence.run_chain(tmp_path, [count, [sys.executable, "-c", "exit(3)", "-"]])
    emoji_sequence.run_chain(tmp_path, [count, count])
    assert (tmp_path / "count").read_text() == "xx"
    with pytest.raises(RuntimeError, match=r"0\.done is of other settings"):
        emoji_sequence.run_chain(tmp_path, [[*count, "--seed"]])


def test_the_table_of_chains_counts_what_comes_back(tmp_path: Path) -> None:
    for trial, value in enumerate((0.5, 0.7)):
        for number in (1, 2):
            metrics = {name: {"value": value} for name in emoji_sequence.COLUMNS}
            rows = [{"shown": 3, "n": 12}, {"shown": 5, "n": 5}] if number == 2 else []
            file = tmp_path / f"lur-{trial}" / str(number) / "evaluation" / "metrics.json"
            file.parent.mkdir(parents=True)
            write_json(file, {"metrics": metrics, "requests": rows})
    table = emoji_sequence.markdown(emoji_sequence.rows(tmp_path, ["lur"], 2, 2)).splitlines()
    middle = " | ".join(["60.0 ± 14.1"] * len(emoji_sequence.COLUMNS))
    assert table[2:] == [f"| `lur` | 1 | {middle} | – |", f"| `lur` | 2 | {middle} | 25.0 ± 0.0 |"]


def test_the_best_of_three_is_the_best_on_average_and_ties_go_to_what_ships() -> None:
    rows = [
        *(row("lur@a=1", h=1.0), row("lur@a=2", h=0.9), row("lur@a=3", ua=0.2, h=0.2)),
        *(row("lur@a=1", "two", ua=0.5, h=0.5), row("lur@a=2", "two", h=0.9)),
        *(row("lur@a=3", "two", h=1.0), row("esd@a=1", ua=0.998), row("esd@a=2")),
        *(row("esd@a=3", ua=0.0), row("fmn@a=1", ua=0.1), row("fmn@a=2", ua=0.9)),
        {"method": "fmn@a=2", "concept": "two", "trial": 0, "failed": "nan"},
    ]
    chosen = diffusion_tuning.choose(summarise(rows))
    assert {name: line["method"] for name, line in chosen.items()} == {
        "lur": "lur@a=2",
        "esd": "esd@a=1",
        "fmn": "fmn@a=1",
    }
    assert chosen["lur"]["score"] == pytest.approx(0.9)
    assert chosen["esd"]["score"] == pytest.approx(2 * 0.998 * 0.9 / 1.898)
