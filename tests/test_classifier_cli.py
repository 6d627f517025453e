"""The classifier commands on real digits, as a user runs them, only shorter."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from erase.cli.main import main
from erase.comparison.classifier_figures import plot_alpha, running_mean, share_above
from erase.comparison.classifier_report import markdown
from erase.runs.folder import locked


def erase(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="erase")


def ok(*arguments: str | Path) -> str:
    result = erase(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "original"
    text = ok("train", "classifier", "--epochs", "3", "--limit", "300", "--output", folder)
    assert "on test images" in text
    return folder


SHORT = ("--epochs", "1", "--forget", "random:10%")


def test_the_run_folder_of_an_original(trained: Path) -> None:
    described = json.loads((trained / "model.json").read_text())
    assert len(described["validation"]) > 10
    assert json.loads((trained / "record.json").read_text())["status"] == "finished"
    assert described["facts"]["test_accuracy"] > 20


def test_forgetting_leaves_a_complete_run_folder(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "lur"
    text = ok("classifier", "--model", trained, *SHORT, "--method", "lur", "--output", out)
    assert "UA" in text
    names = {p.name for p in out.iterdir()}
    assert names >= {
        "config.yaml", "record.json", "log.jsonl", "forget.json", "metrics.json",
        "model.json", "model.safetensors",
    }  # fmt: skip
    row = json.loads((out / "log.jsonl").read_text().splitlines()[0])
    assert -1 <= row["cosine"] <= 1
    assert -1 <= row["cosine_penultimate"] <= 1
    again = tmp_path / "again"
    ok("classifier", "--config", out / "config.yaml", "--output", again)
    first, second = (load_file(f / "model.safetensors") for f in (out, again))
    assert all((first[k] == second[k]).all() for k in first)
    spec = f"indices:{out / 'forget.json'}"
    more = tmp_path / "more"
    ok("classifier", "--model", trained, "--forget", spec, "--epochs", "1", "--method", "ft",
       "--output", more)  # fmt: skip
    indices = [json.loads((f / "forget.json").read_text())["indices"] for f in (out, more)]
    assert indices[0] == indices[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--forget", "class:eleven"), "no class 'eleven'"),
        (("--forget", "random:100000"), "100000 of"),
        (("--forget", "random:100%"), "nothing to retain"),
        (("--forget", "random:5", "--method", "luur"), "no method named"),
        (("--forget", "random:5", "--set", "beta=1"), "no setting 'beta'"),
        (("--forget", "random:5", "--set", "alpha"), "not NAME=VALUE"),
        (("--forget", "random:5", "--train-batch-size", "1"), "--train-batch-size is 1"),
        ((), "--forget is missing"),
    ],
)
def test_bad_input(trained: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = erase("classifier", "--model", trained, *arguments, "--output", tmp_path / "x")
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_model_of_other_classes_than_the_data(trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    described = json.loads((trained / "model.json").read_text())
    described["classes"][0] = "nought"
    (other / "model.json").write_text(json.dumps(described))
    (other / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes())
    result = erase("classifier", "--model", other, *SHORT, "--output", tmp_path / "x")
    assert result.exit_code == 2
    assert "classes" in result.output


def test_a_comparison_goes_on_where_it_was(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "compare"
    common = (
        "compare", "classifier", "--model", trained, "--forget", "class:3", "--epochs", "1",
        "--retrain-epochs", "2", "--output", out, "--search", "2", "--metrics", "idi",
    )  # fmt: skip
    ok(*common, "--methods", "ft,lur-b,lur", "--trials", "1", "--alphas", "0,0.01,0.1",
       "--shadow-models", "1")  # fmt: skip
    folder = out / "class_3"
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    assert results["table"]["retrain"]["gap"][0] == 0
    assert {"original", "retrain", "ft", "lur", "lur-b"} <= set(results["results"])
    assert results["table"]["lur"]["rmia_auc"]
    assert results["metrics"] == ["idi", "rmia"]
    assert all("idi_information" in trial["measured"] for trial in results["results"]["original"])
    for name in ("table.md", "report.html"):
        assert "IDI" in (folder / name).read_text()
    assert len(json.loads((folder / "search" / "lur.json").read_text())["trials"]) == 2
    assert (folder / "cosine.png").stat().st_size > 1000
    assert (folder / "alpha.png").stat().st_size > 1000
    assert "| **" in (folder / "table.md").read_text()
    heads, *lines = (folder / "table.csv").read_text().splitlines()
    assert heads.startswith("method,trials")
    place = heads.split(",").index("idi")
    shown = {line.split(",")[0]: line.split(",")[place] for line in lines}
    assert float(shown["original"]) == 1
    assert float(shown["retrain"]) == 0
    kept = (folder / "trial-0" / "ft.json").stat().st_mtime_ns
    (folder / "trial-0" / "lur.json").unlink()
    ok(*common, "--methods", "ft,lur-b,lur", "--trials", "1", "--shadow-models", "1")
    assert (folder / "trial-0" / "ft.json").stat().st_mtime_ns == kept
    again = json.loads((folder / "results.json").read_text())
    assert again["table"]["lur"]["gap"] == results["table"]["lur"]["gap"]


def test_metrics_of_a_run_and_their_retrain(trained: Path, tmp_path: Path) -> None:
    common = ("classifier", "--model", trained, "--forget", "class:3", "--epochs")
    gold, out, other = (tmp_path / name for name in ("gold", "out", "other"))
    ok(*common, "2", "--method", "retrain", "--output", gold)
    metrics = ("--metrics", "idi,relearn", "--retrained")
    text = ok(*common, "1", "--method", "head", *metrics, gold, "--output", out)
    assert "IDI: model 1.00, original 1.00, retrained 0.00" in text
    measured = json.loads((out / "metrics.json").read_text())["measured"]
    assert set(measured) == {"model", "original", "retrained"}
    assert measured["original"]["relearn_steps"] == 0
    assert measured["model"]["idi_information"] == pytest.approx(
        measured["original"]["idi_information"]
    )
    ok(*common, "1", "--method", "ga", "--metrics", "idi", "--output", other)
    values = json.loads((other / "metrics.json").read_text())["measured"]
    assert "idi" not in values["model"]  # there is no Retrain to compare with
    assert values["original"]["idi_information"] == measured["original"]["idi_information"]
    for arguments, said in (
        ((*metrics, out), "no run of --method retrain with the same forget set"),
        ((*metrics, trained), "no run of --method retrain with the same forget set"),
        (("--metrics", "idi,rmia"), "rmia needs reference models"),
        (("--metrics", "idy"), "no metric of classifiers named 'idy'"),
    ):
        refused = erase(*common, "1", "--method", "ga", *arguments, "--output", tmp_path / "x")
        assert refused.exit_code == 2, refused.output
        assert said in refused.output
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("methods", "setting", "said"),
    [
        ("ft,lur", "lur.lr_scheduler=steep", "lr_scheduler is 'steep'"),
        ("ft,lur", "lur.alpha=-1", "alpha is -1"),
        ("ft,lur", "lur.epochs=-1", "epochs is -1"),
        ("ft,lur", "retrain.train_batch_size=1", "train_batch_size is 1"),
        ("lur,ft+dual", "ft.epochs=1", "--dual-optim does not apply"),
    ],
)
def test_nothing_is_trained_before_every_line_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: str, setting: str, said: str
) -> None:
    """A value that only the last line's run would refuse is refused before the original."""
    started: list[str] = []
    for module in ("classifier_problem", "scratch"):
        monkeypatch.setattr(
            f"erase.comparison.{module}.run_method", lambda *_, **__: started.append("method")
        )
    monkeypatch.setattr(
        "erase.comparison.classifier_problem.train_original",
        lambda *_, **__: started.append("original"),
    )
    result = erase(
        "compare", "classifier", "--forget", "random:10%", "--methods", methods,
        "--set", setting, "--output", tmp_path / "x",
    )  # fmt: skip
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert started == []
    assert not (tmp_path / "x").exists()


def test_two_processes_find_what_one_finds(trained: Path, tmp_path: Path) -> None:
    common = (
        "compare", "classifier", "--model", trained, "--forget", "random:10%", "--epochs", "1",
        "--retrain-epochs", "1", "--methods", "ga,lur", "--trials", "1", "--search", "5",
        "--alphas", "0,0.1",
    )  # fmt: skip
    results = []
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        ok(*common, "--jobs", jobs, "--output", out)
        content = json.loads((out / "random_10pct" / "results.json").read_text())
        assert json.loads((out / "record.json").read_text())["wall_s"] > 0
        results.append({k: [t["scores"] for t in v] for k, v in content["results"].items()})
        results[-1]["search"] = content["search"]
    assert results[0] == results[1]


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    """A search needs a validation split, which only the processes that search look for."""
    original = tmp_path / "original"
    ok("train", "classifier", "--epochs", "0", "--limit", "50", "--validation-share", "0",
       "--output", original)  # fmt: skip
    common = ("compare", "classifier", "--model", original, "--methods", "ga", "--trials", "1")
    result = erase(
        *common, "--forget", "random:5", "--search", "1", "--jobs", "2", "--output", tmp_path / "x"
    )
    assert result.exit_code == 2, result.output
    assert "without a validation split" in result.output
    record = json.loads((tmp_path / "x" / "record.json").read_text())
    assert record["status"] == "failed"
    assert "without a validation split" in record["error"]
    refused = erase(*common, "--forget", "random:100000", "--output", tmp_path / "y")
    assert refused.exit_code == 2
    assert "100000 of" in refused.output
    assert not (tmp_path / "y").exists()


def test_imagenets_normalization_for_imported_weights(tmp_path: Path) -> None:
    out = tmp_path / "original"
    ok("train", "classifier", "--epochs", "0", "--limit", "50", "--normalization", "imagenet",
       "--output", out)  # fmt: skip
    described = json.loads((out / "model.json").read_text())
    assert described["mean"] == [0.485, 0.456, 0.406]


def test_a_fault_is_in_the_record_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("erase.training.classifier_runs.run_method", fail)
    out = tmp_path / "original"
    assert erase("train", "classifier", "--limit", "50", "--output", out).exit_code != 0
    record = json.loads((out / "record.json").read_text())
    assert (record["status"], record["error"]) == ("failed", "a fault of ours")


def test_each_command_holds_its_folder(trained: Path, tmp_path: Path) -> None:
    digits = ("--dataset", "digits", "--forget", "class:3")
    for command in (
        ("train", "classifier", "--limit", "50"),
        ("classifier", "--model", str(trained), *SHORT),
        ("compare", "classifier", "--model", str(trained), *digits, "--methods", "ga"),
        ("compare", "diffusion", "--model", "mini-sd", "--concept", "three", "--methods", "uce"),
    ):
        with locked(tmp_path):
            result = erase(*command, "--output", tmp_path)
        assert result.exit_code == 2, result.output
        assert f"Another process is writing into {tmp_path}." in result.output
        assert [item.name for item in tmp_path.iterdir()] == [".lock"]


def test_the_best_of_a_sweep_is_not_marked_as_the_best() -> None:
    table = {
        "lur@alpha=0.1": {"trials": 3, "gap": (1.0, 0.1)},
        "ft": {"trials": 3, "gap": (3.0, 0.1)},
        "lur": {"trials": 3, "gap": (2.0, 0.1)},
    }
    rows = markdown(table | {"original": {}, "retrain": {}}).splitlines()
    assert [row.split("|")[1].strip() for row in rows[4:]] == ["lur@alpha=0.1", "**lur**", "*ft*"]


def test_curves() -> None:
    assert running_mean([1.0, 3.0, 5.0], 2) == [1.0, 2.0, 4.0]
    assert share_above([1.0, 3.0], [2.0, 2.0]) == 0.5


def test_no_alpha_figure_of_one_point(tmp_path: Path) -> None:
    assert not plot_alpha(tmp_path, {"lur@alpha=0.1": {"trials": 3, "gap": (1.0, 0.1)}})


@pytest.mark.parametrize(
    "command", [("train", "classifier"), ("classifier",), ("compare", "classifier")]
)
def test_every_option_has_help(command: tuple[str, ...]) -> None:
    group: Any = main
    for name in command:
        group = group.get_command(None, name)
    assert all(getattr(p, "help", None) for p in group.params)
