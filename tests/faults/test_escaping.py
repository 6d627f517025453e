"""Names that would be formulas, markup or commands where they are shown: CSV, cards, pages."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from erase.cli.main import main
from erase.config.concept import ConceptConfig
from erase.data.concepts import find_concept
from erase.data.prompts import prompts_root
from erase.errors import one_line, visible
from erase.models.loading import ModelSource, resolve
from erase.report.card import BEGIN, END, model_card, update_card
from erase.report.data import load_evaluation
from erase.report.evaluation import page, render_page
from erase.report.rows import tables
from erase.report.tables import code, csv_text, escaped, markdown, terminal
from tests.report_world import check_page, make

FORMULAS = (
    *("=1+1", "=cmd|' /C calc'!A0", "+1+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(1)"),
    *(
        "\t=1+1",
        "\r=1+1",
        "\n=1+1",
        " =1+1",
        "＝1+1",
        '=HYPERLINK("http://x","y")',
        "=",
        "-",
        "--x",
    ),
)
PLAIN = ("three", "lur@alpha=0.1", "a, b", 'a "b"', "", "-0.5", "+3", "1e-3", "x=1", "é", "日本")
NUMBERS: tuple[Any, ...] = (-1.5, -3, 0, True, None)
CONTROLS = ("\x1b[31mred\x1b[0m", "a\x00b", "bell\x07", "\x9b1m", "back\x08\x08", "\u202egpj.exe")
MARKUP = (
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "![x](http://x/y.png)"),
    *("[x](javascript:alert(1))", "`code`", "``", "| a | b |", "**bold**", "_x_", "<!-- x -->"),
    *(BEGIN, END, f"{END}\n{BEGIN}", "a\n\n# heading", "a\n---\nb: c", "---", "{model}", "a\r\nb"),
    *("\\", "\\`", "</td>", "&lt;script&gt;", "$x$", "<http://x>"),
)
formula = pytest.mark.fault("formula in a CSV")
markup = pytest.mark.fault("markup in a name")


def cell(value: Any) -> str:
    text = csv_text(["a", "b"], [{"a": value, "b": "end"}])
    _, row = csv.reader(io.StringIO(text))
    assert row[1] == "end"
    return row[0]


@formula
@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_no_cell_of_csv_is_a_formula(text: str) -> None:
    assert cell(text).startswith("'")
    heads, _ = csv.reader(io.StringIO(csv_text([text, "b"], [{text: 1, "b": 2}])))
    assert heads[0].startswith("'")


@pytest.mark.parametrize("value", [*PLAIN, *NUMBERS], ids=ascii)
def test_plain_cells_stay_as_they_are(value: Any) -> None:
    assert cell(value) == ("" if value is None else str(value))


@formula
@pytest.mark.parametrize("text", CONTROLS, ids=ascii)
def test_csv_has_no_control_characters(text: str) -> None:
    assert cell(text).isprintable()


@formula
def test_the_tables_of_reports_hold_no_formula(tmp_path: Path) -> None:
    for number in ("0", "1"):
        make(tmp_path / number, count=2, size=16, left=1, model=f"@m{number}")
    folders = [str(tmp_path / "0"), str(tmp_path / "1")]
    labels = ["--label", "=cmd|' /C calc'!A0", "--label=-1+1"]
    output = tmp_path / "comparison"
    result = CliRunner().invoke(main, ["report", *folders, "--output", str(output), *labels])
    assert result.exit_code == 0, result.output
    rows = list(csv.reader(io.StringIO((output / "table.csv").read_text())))
    assert {"'=cmd|' /C calc'!A0", "'-1+1"} <= {row[0] for row in rows}
    for name in ("0", "1"):
        for text in tables(load_evaluation(tmp_path / name)).values():
            for row in csv.reader(io.StringIO(text)):
                assert not any(item.startswith(("=", "@")) for item in row)


def written(folder: Path, concept: str, **changes: Any) -> str:
    settings: dict[str, Any] = {"max_train_steps": 1, "num_forget_images": 2}
    settings |= {"num_retain_images": 2, "forget_guidance": 1.0, "retain_guidance": 1.0}
    config = ConceptConfig(model="mini-sd", concept=(concept,), **(settings | changes))
    made = find_concept(
        config.concept,
        prompts_root(None),
        anchor=config.anchor,
        forget=(f"a photo of {concept}",),
        retain=("a dog",),
    )
    folder.mkdir(exist_ok=True)
    embedded = resolve("mini-sd")
    source = ModelSource(changes.get("model", "mini-sd"), embedded.path)
    model_card(folder, config, source, made, "f" * 64)
    return (folder / "README.md").read_text()


def skeleton(card: str) -> list[str]:
    """The lines that make the card's structure, without what stands in them."""
    marks = ("---", "#", "|", "<!--", "    ")
    return [line.split(" ")[0] for line in card.split("\n") if line.startswith(marks)]


@pytest.fixture(scope="module")
def plain_card(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("card"), "thing", anchor="other")


@markup
@pytest.mark.parametrize("text", MARKUP, ids=ascii)
def test_names_cannot_change_the_card(text: str, tmp_path: Path, plain_card: str) -> None:
    card = written(tmp_path, f"x{text}x", anchor=f"y{text}y", trainable=text)
    assert skeleton(card) == skeleton(plain_card)
    assert card.count(BEGIN) == card.count(END) == 1
    for tag in ("<script", "<img", "](", "</td", "<http"):
        assert tag not in card.replace("]\\(", "").replace(f"\\{tag}", "")
    metrics = {"suite": text, "metrics": {text: {"value": 1.0, "n": 1}}, "protocol": {"name": text}}
    update_card(tmp_path, metrics, tmp_path / "evaluation")
    once = (tmp_path / "README.md").read_text()
    assert once.count(BEGIN) == once.count(END) == 1
    update_card(tmp_path, metrics, tmp_path / "evaluation")
    assert (tmp_path / "README.md").read_text() == once
    shown = re.sub(r"<!--.*?-->|`[^`]*`", "", once)
    assert "<script" not in shown.replace("\\<script", "")


@markup
@pytest.mark.parametrize("text", MARKUP, ids=ascii)
def test_names_cannot_change_a_markdown_table(text: str) -> None:
    table = markdown((text, "b"), [[text, "end"]])
    assert len(table.splitlines()) == 3
    assert all(line.startswith(("| ", "|---")) for line in table.splitlines())
    for line in table.splitlines():
        assert line.replace("\\\\", "").replace("\\|", "").count("|") == 3
    assert "`" not in code(text)[1:-1]


@markup
@pytest.mark.parametrize("text", CONTROLS, ids=ascii)
def test_control_characters_reach_nothing(text: str, tmp_path: Path) -> None:
    shown = [escaped(text), code(text), visible(text), one_line(text), markdown((text,), [[text]])]
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(terminal((text,), [[text]], title=text))
    shown.append(console.file.getvalue())  # type: ignore[attr-defined]
    for result in shown:
        assert all(line.isprintable() for line in result.split("\n"))
    folder = make(tmp_path / "evaluation", count=1, size=16, left=1, model=text.replace("/", ""))
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    rows[0] |= {"prompt": text, "target": text, "predicted": text}
    (folder / "samples.jsonl").write_text(json.dumps(rows[0]) + "\n")
    html = render_page("report.html.j2", page(load_evaluation(folder)))
    assert all(line.isprintable() for line in html.replace("\t", "").split("\n"))
    check_page(html)


@markup
def test_errors_name_things_without_obeying_them(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps({"kind": "\x1b[31mx\x07\n\nError: no"}))
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "\x1b" not in result.output
    assert len([line for line in result.output.splitlines() if line.startswith("Error")]) == 1
