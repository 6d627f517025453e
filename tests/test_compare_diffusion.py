"""`erase compare diffusion`: its lines, what is refused, and a comparison that is resumed."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from erase.cli.main import main
from erase.comparison import diffusion_run
from erase.comparison.diffusion import DiffusionComparison, Job
from erase.comparison.dry_run import plan_diffusion
from erase.comparison.entries import diffusion_entries
from erase.comparison.request import Request, parse_requests
from erase.comparison.store import store
from erase.config.compare import CompareDiffusionConfig, sorted_settings
from erase.data.concepts import find_concept
from erase.data.prompts import prompts_root
from erase.errors import InputError
from erase.judges.emoji import IconJudge
from erase.runs.folder import ComparisonFolder
from erase.runs.signals import run_child
from erase.suites.emoji import Emoji


def test_a_request_is_one_concept_or_several_at_once() -> None:
    both = Request.parse("cat,  flat style")
    assert both.concepts == ("cat", "flat style")
    assert (both.label, both.folder) == ("cat, flat style", "cat+flat-style")
    assert both.settings() == {"concept": ("cat", "flat style"), "erase_from": None}
    pair = Request.parse("cat from  flat style")
    assert (pair.label, pair.folder) == ("cat from flat style", "cat-from-flat-style")
    assert pair.settings() == {"concept": ("cat",), "erase_from": "flat style"}
    beside = Request.parse("dagger, cat from flat")
    assert beside.settings() == {"concept": ("dagger", "cat from flat"), "erase_from": None}
    assert (beside.label, beside.folder) == ("dagger, cat from flat", "dagger+cat-from-flat")
    for wrong in ("cat,", ", cat", " ", "cat from ", "dagger, from flat", " from flat"):
        with pytest.raises(InputError, match="lacks a name"):
            Request.parse(wrong)
    with pytest.raises(InputError, match="given twice"):
        parse_requests(["cat, dagger", "cat,dagger"])


def test_settings_go_to_the_method_the_attack_or_the_judge() -> None:
    texts = ("esd.guidance=2", "relearn.steps=0,5", "emoji.forgotten=24", "fid.features=x")
    found = sorted_settings(texts, ("relearn",))
    assert found.methods == ("esd.guidance=2",)
    assert found.attacks == ("relearn.steps=0,5",)
    assert found.judging == ("emoji.forgotten=24", "fid.features=x")
    assert sorted_settings(texts, ("all",)).attacks == found.attacks
    with pytest.raises(InputError, match=r"relearn\.… is for an attack that is not made"):
        sorted_settings(texts, ("p4d",))


def test_every_run_needs_the_images_of_its_request(tmp_path: Path) -> None:
    config = CompareDiffusionConfig(model="mini-sd", concept=("three", "one, two"), trials=2)
    lines = diffusion_entries("lur,uce")
    comparison = DiffusionComparison(config, lines, tmp_path, "cpu", lambda _: None)
    needs = comparison.jobs()
    assert len(needs) == 2 + 2 * 2 * 2
    for job, before in needs.items():
        assert before == ({Job(job.request)} if job.label else set())
    assert str(Job(Request.parse("one, two"), "lur", 1)) == "one, two: lur, trial 1"


def test_lines_and_their_settings() -> None:
    found = diffusion_entries(
        "lur, esd@variant=x@train-batch-size=8,esd", ("esd.guidance=2", "lur.learning-rate=1e-3")
    )
    assert [line.label for line in found] == ["lur", "esd@variant=x@train-batch-size=8", "esd"]
    assert (found[0].changes, found[0].settings) == ({"learning_rate": 1e-3}, {})
    assert found[1].changes == {"train_batch_size": 8}
    assert found[1].settings == {"guidance": 2.0, "variant": "x"}
    every = [line.method for line in diffusion_entries("all", ())]
    assert {"lur", "lur-b", "salun", "shs", "esd", "sa", "fmn", "uce", "ca"} <= set(every)
    assert "retrain" not in every
    assert "ga" not in every


@pytest.mark.parametrize(
    ("methods", "settings", "said"),
    [
        ("lur,lur", (), "twice"),
        ("retrain", (), "not defined for text-to-image"),
        ("esd@x", (), "METHOD@NAME=VALUE"),
        ("esd@strength=1", (), "no setting 'strength'"),
        ("lur", ("alpha=1",), "METHOD.NAME=VALUE"),
        ("lur", ("esd.guidance=1",), "not compared"),
        ("lur+dual", (), "no variant 'dual'"),
        ("lur@seed=3", (), "no setting 'seed'"),
        ("lur@model=x", (), "no setting 'model'"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    methods: str, settings: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        diffusion_entries(methods, settings)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--concept", "dog"), "dog"),
        (("--concept", "three", "--set", "lur.alpha=-1"), "alpha"),
        (("--concept", "three", "--set", "esd.mixed_precision=fp8"), "mixed_precision is 'fp8'"),
        (("--concept", "three", "--set", "esd.save_dtype=bf16"), "save_dtype is 'bf16'"),
        (("--concept", "three", "--set", "esd.guidance=strong"), "no number"),
        (("--concept", "three", "--set", "esd.max_train_steps=0"), "max_train_steps is 0"),
        (("--concept", "three", "--set", "esd.lr_scheduler=steep"), "lr_scheduler is"),
        (("--concept", "three", "--set", "esd.seed=1"), "no setting 'seed'"),
        (("--concept", "three", "--set", "lur.filter_forget=classifier"), "--filter-forget"),
        (("--concept", "three", "--num-anchor-images", "0"), "--num-anchor-images is 0"),
        (("--concept", "three", "--images-per-class", "0"), "--images-per-class is 0"),
        (("--concept", "three", "--concept", "dog"), "dog"),
        (("--concept", "three, dog"), "dog"),
        (("--concept", "three,"), "lacks a name"),
        (("--concept", "three", "--attacks", "relearn,magic"), "magic"),
        (("--concept", "three", "--attack-limit", "4"), "--attack-limit is given without"),
        (("--concept", "three", "--set", "relearn.steps=0,5"), "--attacks relearn"),
        (("--concept", "three", "--set", "digits.n=5"), "digits has no setting"),
        (
            ("--concept", "three", "--attacks", "relearn", "--set", "relearn.steps=0"),
            "relearn.steps is '0'",
        ),
    ],
)
def test_nothing_is_rendered_before_every_line_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], said: str
) -> None:
    """A value that only the last line's run would refuse is refused before the first image."""
    started: list[str] = []
    for name in ("load_pipeline", "render_set", "Judging.measure"):
        watched = partial(started.append, name)
        monkeypatch.setattr(
            f"erase.comparison.diffusion.{name}", lambda *_, watched=watched, **__: watched()
        )
    command = ["compare", "diffusion", "--output", str(tmp_path / "out"), "--model", "mini-sd"]
    refused = CliRunner().invoke(main, [*command, "--methods", "lur,esd", *more])
    assert refused.exit_code == 2, refused.output
    assert said in refused.output
    assert started == []
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_comparison_and_its_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [
        *("compare", "diffusion", "--model", "mini-sd", "--concept", "three"),
        *("--methods", "lur-b,ca,uce", "--output", str(tmp_path), "--max-train-steps", "2"),
        *("--train-batch-size", "4", "--num-forget-images", "4", "--num-retain-images", "9"),
        *("--num-anchor-images", "4", "--render-steps", "2", "--images-per-class", "2"),
        *("--steps", "2"),
    ]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "results.json").read_text())
    assert [line["method"] for line in results["means"]] == ["original", "lur-b", "ca", "uce"]
    for found in results["rows"]:
        assert "failed" not in found, found
        assert found["memory_bytes"] > 2**20
        assert found["seconds"] > 0
        assert found["metrics"]["ua"]["n"] == 2
        assert found["metrics"]["ra"]["n"] == 18
    data = tmp_path / "three" / "data"
    assert {p.name for p in data.iterdir()} == {"forget", "retain", "anchor", "shared.json"}
    assert not any((tmp_path / "three" / name / "data").exists() for name in ("lur-b", "ca"))

    table = (tmp_path / "table.md").read_bytes()
    ran: list[str] = []

    def watched(command: list[str]) -> Any:
        ran.append(command[command.index("--output") + 1])
        return run_child(command)

    monkeypatch.setattr(diffusion_run, "run_child", watched)
    assert CliRunner().invoke(main, command).exit_code == 0
    (tmp_path / "three" / "ca.json").unlink()  # as if its evaluation had been interrupted
    assert CliRunner().invoke(main, command).exit_code == 0
    assert ran == []
    assert (tmp_path / "table.md").read_bytes() == table
    (tmp_path / "three" / "ca.json").unlink()
    (tmp_path / "three" / "ca" / "record.json").unlink()
    assert CliRunner().invoke(main, [*command, "--methods", "ca"]).exit_code == 0
    assert ran == [str(tmp_path / "three" / "ca")]


def test_a_result_is_of_all_that_it_was_judged_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CompareDiffusionConfig(model="mini-emoji", concept=("cat",))
    concept = find_concept("cat", prompts_root(), suite="emoji")

    def judged(**changes: Any) -> list[Any]:
        texts = sorted_settings((), ())
        comparison = DiffusionComparison(
            config.replace(**changes), diffusion_entries("uce"), tmp_path, "cpu", print, texts
        )
        return comparison.judged_by(concept)

    before = judged()
    assert before == judged()
    assert judged(images_per_class=2) != before != judged(evaluation_steps=7)
    with monkeypatch.context() as patch:
        patch.setattr(Emoji, "version", 99)
        assert judged() != before
    with monkeypatch.context() as patch:
        patch.setattr(IconJudge, "fingerprint", lambda _: "another")
        assert judged() != before


def test_what_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed, say for lack of memory, while one that ended well is kept."""
    config = CompareDiffusionConfig(model="mini-sd", concept=("three",))
    comparison = DiffusionComparison(
        config, diffusion_entries("uce,esd"), tmp_path, "cpu", lambda _: None
    )
    monkeypatch.setattr(DiffusionComparison, "shared_images", lambda *_: None)
    monkeypatch.setattr(DiffusionComparison, "run_entry", lambda *_: {})
    with ComparisonFolder(tmp_path, "compare diffusion", config=config).hold():
        pass
    good, bad = comparison.result_files()
    attack = good.with_name(f"{good.stem}-attack.json")
    store(good, {"fingerprint": "a", "seconds": 1.0})
    store(bad, {"fingerprint": "a", "failed": "the run ended with exit code -9"})
    store(attack, {"fingerprint": "a", "failed": "out of memory"})
    said = "\n".join(plan_diffusion(config, tmp_path, methods="uce,esd"))
    assert "of which 1 are there" in said
    assert "# kept: of the runs that are there, those of the same settings" in said
    comparison.run()
    assert [path.is_file() for path in (good, bad, attack)] == [True, False, False]


SMALL = (
    *("--max-train-steps", "1", "--train-batch-size", "2", "--num-forget-images", "4"),
    *("--num-retain-images", "8", "--num-anchor-images", "2", "--render-steps", "2"),
    *("--images-per-class", "1", "--evaluation-steps", "2"),
)


@pytest.mark.slow
def test_two_concepts_at_once_are_attacked_in_two_processes(tmp_path: Path) -> None:
    """The original is attacked once for both methods, and a second call does nothing."""
    command = [
        *("compare", "diffusion", "--model", "mini-sd", "--concept", "three, seven"),
        *("--methods", "uce,lur-b", "--output", str(tmp_path), "--jobs", "2", *SMALL),
        *("--attacks", "relearn,noise-probe", "--attack-limit", "2"),
        *("--set", "relearn.steps=0,1", "--set", "relearn.batch_size=2"),
        *("--set", "relearn.images=harmless", "--set", "noise-probe.starts=noise"),
    ]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "results.json").read_text())
    for found in results["rows"]:
        assert "failed" not in found, found
        assert found["concept"] == "three, seven"
        titles = list(found["attacked"]["attacks"])
        assert titles[0] == "relearn (harmless)"
        assert titles[1].startswith("noise-probe")
    assert [line["method"] for line in results["attacks"]] == ["original", "uce", "lur-b"]
    assert {path.name for path in tmp_path.glob("*.png")} >= {"pareto.png", "relearn-harmless.png"}
    control = list((tmp_path / "originals").glob("attack-*"))
    assert len(control) == 2
    images = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("images/*.png")}
    assert CliRunner().invoke(main, command, catch_exceptions=False).exit_code == 0
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("images/*.png")} == images


@pytest.mark.slow
def test_on_emoji_a_row_has_its_suites_metrics(tmp_path: Path) -> None:
    command = [
        *("compare", "diffusion", "--model", "mini-emoji", "--concept", "cat, dagger"),
        *("--methods", "uce", "--output", str(tmp_path), *SMALL),
        *("--set", "emoji.forgotten=6", "--set", "emoji.paraphrases=1"),
    ]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (found,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    wanted = {"ua", "ira", "cra", "neighbours", "neighbours_rest", "composition", "paraphrases"}
    wanted |= {"h", "drift"}
    assert wanted <= found["metrics"].keys()
    assert found["metrics"].keys() - found["original"].keys() == {"drift"}  # from the original
    assert found["original"].keys() < found["metrics"].keys()
    assert all(summary["n"] > 0 and summary["ci95"] for summary in found["metrics"].values())
    assert "near %" in (tmp_path / "table.md").read_text()
