"""A run's config.yaml with another method: what stays, what is left out, and what is said."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from erase.artifacts.packaged import EMBEDDED
from erase.cli.main import main
from erase.config.concept import ClassConfig, ConceptConfig
from erase.config.replay import MOVED, upgraded
from erase.config.resolve import resolve_run
from erase.config.values import parse_pairs
from erase.models.loading import ModelSource
from erase.training import plan as planning
from erase.training.plan import ConceptPlan, plan

THREE: dict[str, Any] = {"model": "mini-sd", "concept": ("three",)}
LUR = {"alpha": 0.02, "forget_weight": 0.3}


def filled(**given: Any) -> ConceptConfig:
    return plan(ConceptConfig(**{**THREE, **given}), device="cpu").config


def replayed(file: Path, *settings: str, **given: Any) -> ConceptPlan:
    """As `erase concept --config FILE` with these options plans it."""
    return plan(*resolve_run(ConceptConfig, given, parse_pairs(settings), file), device="cpu")


def written(folder: Path, config: ConceptConfig) -> Path:
    config.write(folder / "config.yaml")
    return folder / "config.yaml"


@pytest.mark.parametrize(
    ("before", "after"),
    [("lur", "salun"), ("uce", "lur"), ("esd", "lur-b"), ("lur", "uce"), ("salun", "joint")],
)
def test_what_nobody_chose_is_as_in_a_run_of_the_other_method(
    tmp_path: Path, before: str, after: str
) -> None:
    file = written(tmp_path, filled(method=before))
    assert replayed(file, method=after).config == filled(method=after)


def test_what_the_user_had_chosen_stays_and_the_methods_own_goes(tmp_path: Path) -> None:
    chosen = {"learning_rate": 3e-4, "seed": 7, "num_retain_images": 9, "trainable": "xattn"}
    file = written(tmp_path, filled(method="lur", settings=LUR, **chosen))
    planned = replayed(file, method="salun")
    assert planned.config == filled(method="salun", **chosen)
    (note,) = planned.notes
    assert note == f"{file} is of lur; left out of it for salun: alpha, forget_weight, trim_layers"


def test_what_is_given_now_goes_first(tmp_path: Path) -> None:
    file = written(tmp_path, filled(method="lur", settings=LUR))
    own = {"forget_weight": "0.3", "sparsity": "0.9"}
    now = {"max_train_steps": 150}  # forget_weight and this as in the file, and yet the user's
    planned = replayed(file, *(f"{name}={text}" for name, text in own.items()), method="shs", **now)
    assert planned.config == filled(method="shs", settings=own, **now)
    (note,) = planned.notes
    assert note.endswith("for shs: alpha, trim_layers")


def test_a_variant_takes_what_it_trains_with_it(tmp_path: Path) -> None:
    file = written(tmp_path, filled(method="esd", settings={"variant": "u"}))
    planned = replayed(file, method="lur-b")
    assert planned.config == filled(method="lur-b")
    (note,) = planned.notes
    assert {"variant", "trainable"} <= set(note.partition("lur-b: ")[2].split(", "))


def test_the_files_own_method_by_any_name_changes_nothing(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"settings": {"forget_weight": 0.3}, "learning_rate": 1e-3}
    file = written(tmp_path, filled(method="lur-b", **chosen))
    for name in ("lur-b", "joint"):
        planned = replayed(file, method=name)
        assert planned.config == filled(method="lur-b", **chosen)
        assert not planned.notes


def test_a_method_of_captions_alone_leaves_what_decides_images(tmp_path: Path) -> None:
    file = written(tmp_path, filled(method="lur", num_forget_images=9, filter_forget="classifier"))
    planned = replayed(file, method="uce")
    assert planned.config == filled(method="uce")
    assert not any(planned.sets[name].paths for name in ("forget", "retain"))  # type: ignore[union-attr]
    assert {"num_forget_images", "filter_forget"} <= set(
        planned.notes[-1].split(": ")[1].split(", ")
    )
    asked = plan(ConceptConfig(**THREE, method="uce", num_forget_images=9), device="cpu")
    assert asked.config == planned.config
    assert asked.notes == ("uce reads prompts alone, so --num-forget-images has no effect",)


def test_a_file_that_names_no_method_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("{model: mini-sd, concept: three, seed: 3, settings: {mask: 0.4}}")
    expected = filled(method="salun", seed=3, settings={"mask": 0.4})
    assert replayed(file, method="salun").config == expected


@pytest.mark.parametrize("method", ["lur", "lur-b", "esd"])
def test_a_file_of_an_earlier_version_is_read_as_it_was_meant(tmp_path: Path, method: str) -> None:
    """Three settings of methods stood beside `settings`, null where a method had none such."""
    now = filled(method=method)
    older = now.to_dict()
    older |= {name: older["settings"].pop(name, None) for name in MOVED}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(older))
    assert replayed(file).config == now
    assert upgraded(yaml.safe_load(file.read_text())) == now.to_dict()  # a run can be resumed
    again = replayed(file, method="salun")
    assert again.config == filled(method="salun")


def test_what_an_earlier_version_ignored_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    text = "{model: mini-sd, concept: three, alpha: 0.1, forget_weight: 0.3, meta_mode: null}"
    file.write_text(text)
    assert replayed(file, method="esd").config == filled(method="esd")
    own = {"alpha": 0.1, "forget_weight": 0.3}
    assert replayed(file, method="lur").config == filled(method="lur", settings=own)


def test_a_method_that_is_not_for_the_model_tells_nothing_of_its_values(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("{model: mini-sd, concept: three, method: scrub, learning_rate: 3.0e-4}")
    assert replayed(file, method="lur").config == filled(method="lur", learning_rate=3e-4)


def test_the_steps_of_a_class_follow_the_other_methods_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.test_class_run import CHURCH, GOLF, tree

    class Large(ModelSource):
        def resolution(self) -> int:
            return 512

    source = Large("large", EMBEDDED["mini-sd"])
    monkeypatch.setattr(planning, "resolve", lambda *_, **__: source)
    data = tree(tmp_path / "data", {GOLF: 24, CHURCH: 5})
    common: Any = {"target": ("golf ball",), "data": str(data), "model": "large"}

    def fresh(method: str, **more: Any) -> ClassConfig:
        config = plan(ClassConfig(method=method, **common, **more), device="cpu").config
        assert isinstance(config, ClassConfig)
        return config

    def again(method: str) -> ConceptConfig:
        return plan(
            *resolve_run(ClassConfig, {"method": method}, {}, tmp_path / "config.yaml"),
            device="cpu",
        ).config

    assert (fresh("esd").train_batch_size, fresh("lur").max_train_steps) == (1, 15)
    written(tmp_path, fresh("esd"))
    assert again("lur") == fresh("lur")
    written(tmp_path, fresh("lur", train_batch_size=4))
    assert again("lur-b") == fresh("lur-b", train_batch_size=4)
    assert again("lur-b").max_train_steps == 30
    # A method of captions alone leaves open how many images there are.
    written(tmp_path, fresh("uce"))
    assert again("uce") == fresh("uce")
    assert again("lur") == fresh("lur")


def test_the_commands_say_it(tmp_path: Path) -> None:
    def erase(*arguments: str) -> str:
        result = CliRunner().invoke(main, [*arguments, "--device", "cpu"])
        assert result.exit_code == 0, result.output
        return result.output

    for command, name in (("concept", "--concept"), ("class", "--target")):
        first = (command, "--model", "mini-sd", name, "three", "--output", str(tmp_path / "run"))
        said = erase(*first, "--alpha", "0.02", "--seed", "7", "--dry-run")
        file = tmp_path / f"{command}.yaml"
        file.write_text(said)
        second = (command, "--config", str(file), "--output", str(tmp_path / "run"), "--dry-run")
        said = erase(*second, "--method", "salun", "--set", "mask=0.4")
        note = f"# warning: {file} is of lur; left out of it for salun: alpha, forget_weight"
        assert note in said
        now = yaml.safe_load(said)
        assert (now["seed"], now["settings"].get("alpha"), now["settings"]["mask"]) == (
            7,
            None,
            0.4,
        )


def test_a_classifiers_run_with_another_method(tmp_path: Path) -> None:
    def erase(*arguments: str | Path) -> str:
        result = CliRunner().invoke(main, [str(item) for item in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    def config(name: str) -> dict[str, Any]:
        values: dict[str, Any] = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        return values

    short = ("--epochs", "1", "--limit", "300", "--dataset", "digits")
    erase("train", "classifier", *short, "--output", tmp_path / "original")
    task: tuple[str | Path, ...] = (
        "--model",
        tmp_path / "original",
        "--forget",
        "random:10%",
        "--seed",
        "3",
    )
    task += ("--train-batch-size", "100")
    erase("classifier", *task, "--method", "lur", "--alpha", "0.02", "--output", tmp_path / "lur")
    file = tmp_path / "lur" / "config.yaml"
    replay = ("classifier", "--config", file, "--output")
    said = erase(*replay, tmp_path / "scrub", "--method", "scrub", "--set", "temperature=2")
    assert "is of lur; left out of it for scrub: " in said
    left = said.partition("for scrub: ")[2].partition(".\n")[0].split(", ")
    assert {"alpha", "trim_layers"} <= set(left)
    assert not {"seed", "train_batch_size", "model"} & set(left)
    erase("classifier", *task, "--method", "scrub", "--set", "temperature=2",
          "--output", tmp_path / "fresh")  # fmt: skip
    assert config("scrub") == config("fresh")
    assert config("scrub")["learning_rate"] != config("lur")["learning_rate"]
