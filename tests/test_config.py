"""One settings system: types, choices, ranges, the grammar of values, layers, five ways to give."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from erase import registry
from erase.cli.main import main
from erase.comparison import entries
from erase.config.base import SCHEDULERS, LoopConfig
from erase.config.classifier import ClassifierConfig
from erase.config.compare import CompareConfig, CompareDiffusionConfig, settings_by_line
from erase.config.concept import ConceptConfig
from erase.config.evaluate import EvaluateConfig
from erase.config.families import CLASSIFIER, DENOISERS, declared_families, methods_for
from erase.config.fields import field_specs, shown
from erase.config.layers import Layer, fill, fill_run, merged, origins, run_layers
from erase.config.methods import find_method
from erase.config.resolve import given_settings
from erase.config.values import parse_line, parse_owned, parse_pairs, read_value
from erase.errors import InputError
from erase.render.render import DTYPES
from tests.denoiser_world import FAMILIES

CONCEPT = [
    # A method, a name, a bad value of it as text, and what is said.
    ("lur", "max_train_steps", "ten", "max_train_steps is 'ten', which is no whole number."),
    ("lur", "max_train_steps", "1.5", "max_train_steps is 1.5, which is no whole number."),
    ("lur", "max_train_steps", "0", "max_train_steps is 0."),
    ("lur", "learning_rate", "-1e-4", "learning_rate is -0.0001."),
    ("lur", "learning_rate", "nan", "learning_rate is nan."),
    ("lur", "save_dtype", "bf16", "save_dtype is 'bf16'."),
    ("lur", "mixed_precision", "fp8", "mixed_precision is 'fp8'."),
    ("lur", "lr_scheduler", "zigzag", "lr_scheduler is 'zigzag'."),
    ("lur", "caption_dropout", "1", "caption_dropout is 1."),
    ("lur", "resolution", "33", "resolution is 33."),
    ("lur", "alpha", "x", "alpha is 'x', which is no number."),
    ("lur", "alpha", "-1", "alpha is -1."),
    ("lur", "forget_weight", ".inf", "forget_weight is '.inf', which is no number."),
    ("lur", "forget_weight", "inf", "forget_weight is inf."),
    ("lur", "meta_mode", "{", "meta_mode is '{'."),
    ("lur", "meta_mode", "third-order", "meta_mode is 'third-order'."),
    ("esd", "variant", "y", "variant is 'y'."),
    ("esd", "guidance", "0", "guidance is 0."),
    ("sa", "fisher_samples", "true", "fisher_samples is true, which is no whole number."),
    ("sfr-on", "decay", "3", "decay is 3."),
    ("uce", "alpha", "1", "uce has no setting 'alpha'."),
]
CLASSIFIERS = [
    ("lur", "epochs", "ten", "epochs is 'ten', which is no whole number."),
    ("lur", "learning_rate", "-1", "learning_rate is -1."),
    ("lur", "train_batch_size", "1", "train_batch_size is 1."),
    ("lur", "lr_scheduler", "zigzag", "lr_scheduler is 'zigzag'."),
    ("lur", "alpha", "x", "alpha is 'x', which is no number."),
    ("lur", "trim", "2", "trim is 2."),
    ("iu", "solver", "newton", "solver is 'newton'."),
    ("salun", "mask", "0", "mask is 0."),
]
OWN_OPTION = {"alpha", "forget_weight", "meta_mode", "trim"}


def said(*arguments: str | Path) -> str:
    """The line that a command ends with, as bad input."""
    result = CliRunner().invoke(main, [str(item) for item in arguments])
    assert result.exit_code == 2, result.output
    assert "not expected" not in result.output
    (line,) = [row for row in result.output.splitlines() if row.startswith("Error: ")]
    return line.removeprefix("Error: ")


def raised(make: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as error:
        make()
    return error.value.message


def in_yaml(text: str) -> Any:
    """As a person writes it into a file: numbers are numbers there."""
    value = text if text == "{" else read_value(text)
    return text if isinstance(value, float) and not math.isfinite(value) else value


def ways(
    command: tuple[str | Path, ...],
    compare: tuple[str | Path, ...],
    case: tuple[str, str, str, str],
    fields: type,
    python: Callable[[str, dict[str, Any]], Any],
    folder: Path,
) -> dict[str, str]:
    """What is said of a bad value by each of the ways in which it can be given."""
    method, name, text, _ = case
    field = name in field_specs(fields)
    value = in_yaml(text)
    values = {name: value} if field else {"settings": {name: value}}
    file = folder / "bad.yaml"
    file.write_text(yaml.safe_dump({"method": method, **values}))
    run = (*command, "--output", folder / "out")
    of_method = (*run, "--method", method)
    compared = (*compare, "--output", folder / "compared", "--methods")
    answers = {
        "--config": said(*run, "--config", file),
        "comparison --set": said(*compared, method, "--set", f"{method}.{name}={text}"),
        "comparison @": said(*compared, f"{method}@{name}={text}"),
        "Python": raised(lambda: python(method, values)),
        "Python, text": raised(
            lambda: python(method, {name: text} if field else {"settings": {name: text}})
        ),
    }
    if field or name in OWN_OPTION:
        option = f"--{name.replace('_', '-')}"
        answers["option"] = said(*of_method, option, text)
        if answers["option"].startswith(option):  # a message names the option that was given
            answers["option"] = name + answers["option"].removeprefix(option)
        elif case[3].startswith(name):
            answers["option"] = f"without the option's name: {answers['option']}"
    if not field:
        answers["--set"] = said(*of_method, "--set", f"{name.replace('_', '-')}={text}")
    assert not (folder / "out").exists()
    assert not (folder / "compared").exists()
    return answers


@pytest.mark.parametrize("case", CONCEPT, ids=lambda case: "-".join(case[:3]))
def test_a_bad_value_of_a_denoisers_run_is_refused_alike(
    case: tuple[str, str, str, str], tmp_path: Path
) -> None:
    from erase.training.plan import plan

    task = ("--model", "mini-sd", "--concept", "three")

    def python(method: str, values: dict[str, Any]) -> Any:
        config = ConceptConfig(model="mini-sd", concept=("three",), method=method, **values)
        return plan(config, device="cpu")

    answers = ways(
        ("concept", *task), ("compare", "diffusion", *task), case, ConceptConfig, python, tmp_path
    )
    if case[0] == "uce":  # a name that nobody has: in a comparison it may be one of a run
        for way in ("comparison --set", "comparison @"):
            answers[way] = answers[way].replace(", nor has a run.", ".")
    assert set(answers.values()) == {case[3]}, answers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "run"
    quick = ("--dataset", "digits", "--epochs", "0", "--limit", "200", "--output", str(path))
    assert CliRunner().invoke(main, ["train", "classifier", *quick]).exit_code == 0
    return path


@pytest.mark.parametrize("case", CLASSIFIERS, ids=lambda case: "-".join(case[:3]))
def test_a_bad_value_of_a_classifiers_run_is_refused_alike(
    case: tuple[str, str, str, str], folder: Path, tmp_path: Path
) -> None:
    from erase.config.classifier import fill as fill_classifier

    task = ("--model", folder, "--forget", "random:5")

    def python(method: str, values: dict[str, Any]) -> Any:
        return fill_classifier(ClassifierConfig(method=method, **values), "digits", 0.1)

    answers = ways(
        *(("classifier", *task), ("compare", "classifier", *task), case),
        *(ClassifierConfig, python, tmp_path),
    )
    assert set(answers.values()) == {case[3]}, answers


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--methods", "lur", "--alphas", "abc"), "alpha is 'abc', which is no number."),
        (("--methods", "lur@alpha"), "lur@alpha is not METHOD@NAME=VALUE."),
        (("--methods", "lur@alpha=1@"), "lur@alpha=1@ is not METHOD@NAME=VALUE."),
        (("--methods", "lur@=1"), "lur@=1 is not METHOD@NAME=VALUE."),
        (("--methods", "lur@beta=1"), "lur has no setting 'beta'."),
        (("--methods", "lur+quad"), "There is no variant 'quad'."),
        (("--methods", "lur", "--set", "lur=1"), "--set lur=1 is not METHOD.NAME=VALUE."),
        (("--methods", "lur", "--trials", "0"), "--trials is 0."),
        (("--methods", "lur", "--jobs", "x"), "--jobs is 'x', which is no whole number."),
        (("--methods", "lur", "--dataset", "mnist"), "--dataset is 'mnist'."),
    ],
)
def test_a_comparison_of_classifiers_refuses(
    given: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    task = ("--forget", "random:5", "--output", tmp_path / "out")
    assert said("compare", "classifier", *task, *given) == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--set", "fid=1"), "--set fid=1 is not METRIC.NAME=VALUE."),
        (("--set", "fid.features"), "--set fid.features is not METRIC.NAME=VALUE."),
        (("--dtype", "fp8"), "--dtype is 'fp8'."),
        (("--batch-size", "many"), "--render-batch-size is 'many', which is no whole number."),
        (("--guidance", "inf"), "--guidance is inf."),
    ],
)
def test_an_evaluation_refuses(given: tuple[str, ...], message: str, tmp_path: Path) -> None:
    run = ("evaluate", "--model", "mini-sd", "--target", "three", "--output", tmp_path / "out")
    assert said(*run, *given) == message


def test_lines_with_several_settings_and_texts_that_are_choices() -> None:
    line = entries.entry("lur+dual@alpha=1e-2@trim=0.9")
    assert (line.method, line.changes) == ("lur", {"dual_optim": True})
    assert line.settings == {"alpha": 0.01, "trim": 0.9}
    rate = entries.entry("lur+dual@learning-rate=1e-2@schedule=cosine")
    assert rate.changes == {"dual_optim": True, "learning_rate": 0.01, "lr_scheduler": "cosine"}
    assert entries.entry("iu@solver=exact").settings == {"solver": "exact"}
    sweep = entries.entries("ft", "0, 1e-2")
    assert [item.label for item in sweep] == ["ft", "lur@alpha=0.0", "lur@alpha=0.01"]
    (esd,) = entries.diffusion_entries("esd@trainable=xattn@start=empty", ())
    assert (esd.changes, esd.settings) == ({"trainable": "xattn"}, {"start": "empty"})


def test_one_grammar() -> None:
    assert parse_pairs(["forget-weight=0.3", "prompt=a=b"]) == {
        "forget_weight": "0.3",
        "prompt": "a=b",
    }
    assert parse_owned(["lur-b.forget-weight=1", "lur-b.trim=0.9", "fid.features=x.y"]) == {
        "lur-b": {"forget_weight": "1", "trim": "0.9"},
        "fid": {"features": "x.y"},
    }
    line = parse_line("lur-b+dual@forget-weight=1@trim=0.9")
    assert (line.method, line.variants) == ("lur-b", ("dual",))
    assert line.settings == {"forget_weight": "1", "trim": "0.9"}
    assert settings_by_line(["lur.epochs=3", "lur+trim.alpha=1e-3"]) == {
        "lur": {"epochs": 3},
        "lur+trim": {"alpha": 0.001},
    }
    for text in ("alpha", "=1", " =1"):
        with pytest.raises(InputError, match="is not NAME=VALUE"):
            parse_pairs([text])


def test_an_option_and_set_may_say_the_same_but_not_two_things() -> None:
    assert given_settings(("alpha=1e-1",), {"alpha": "0.1"}) == {"alpha": "1e-1"}
    assert given_settings((), {"alpha": "0.1", "trim": None}) == {"alpha": "0.1"}
    with pytest.raises(InputError, match="--forget-weight and --set forget_weight differ"):
        given_settings(("forget-weight=1",), {"forget_weight": "2"})


def test_values_are_typed_where_an_object_is_made() -> None:
    given: dict[str, Any] = {
        "learning_rate": "1e-4",
        "max_train_steps": 10.0,
        "mixed_precision": False,
        "use_8bit_adam": "yes",
        "concept": "three",
        "model": Path("some") / "folder",
    }
    config = ConceptConfig(**given)
    assert (config.learning_rate, config.max_train_steps) == (1e-4, 10)
    assert isinstance(config.max_train_steps, int)
    assert (config.mixed_precision, config.use_8bit_adam) == ("no", True)
    assert (config.concept, config.model) == (("three",), "some/folder")
    assert config.replace(lora_alpha="null").lora_alpha is None
    for values in (
        {"seed": None},
        {"seed": True},
        {"concept": 3},
        {"concept": (3,)},
        {"model": 5},
        {"settings": 3},
        {"max_train_steps": math.inf},
        {"learning_rate": 10**400},
        {"use_8bit_adam": 1},
    ):
        (name,) = values
        with pytest.raises(InputError, match=f"^{name} is "):
            ConceptConfig(**values)
    for kind in (CompareConfig, CompareDiffusionConfig):
        with pytest.raises(InputError, match="trials is 0") as error:
            kind(trials=0)
        assert error.value.remedy == "Give a value of at least 1."
    with pytest.raises(InputError, match="dtype is 'fp8'"):
        EvaluateConfig(dtype="fp8")


def test_remedies_name_the_range() -> None:
    remedies = {}
    for name, value in {"mask": 0, "retain_weight": -1, "mask_guidance": math.nan}.items():
        with pytest.raises(InputError) as error:
            find_method("salun", "text-to-image").build({name: value})
        remedies[name] = error.value.remedy
    assert remedies == {
        "mask": "Give a value above 0 and of at most 1.",
        "retain_weight": "Give a value of at least 0.",
        "mask_guidance": "Give a value that is finite.",
    }
    with pytest.raises(InputError) as error:
        LoopConfig(ema_decay=1)
    assert error.value.remedy == "Give a value from 0 to below 1."


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), ("1e-4", "0.0001"), ("yes", "true"), (None, "null"), ("ten", "'ten'"), ("", "''")],
)
def test_a_value_is_shown_as_what_it_says(value: Any, text: str) -> None:
    assert shown(value) == text


def test_layers_say_where_a_value_is_from() -> None:
    layers = [
        Layer("given", {"seed": 1, "learning_rate": None}),
        Layer("file", {"seed": 2, "learning_rate": 0.1}),
    ]
    assert merged(layers) == {"seed": 1, "learning_rate": 0.1}
    assert origins(layers) == {"seed": "given", "learning_rate": "file"}
    assert fill(LoopConfig(max_train_steps=3), [Layer("size", {"max_train_steps": 9})]) == (
        LoopConfig(max_train_steps=3)
    )


def test_a_variant_comes_after_its_method_and_before_the_rest() -> None:
    spec = find_method("esd", "text-to-image")
    config = ConceptConfig(method="esd", settings={"variant": "sdxl"})
    layers = [
        Layer("method", {"max_train_steps": 5, "variant": "u", "guidance": 2.0}),
        Layer("concept", {"trainable": "full", "num_forget_images": 7}),
        Layer("size", {"learning_rate": 1.0, "lr_warmup_steps": 1}),
    ]
    filled = fill_run(config, spec, layers)
    own = {"variant": "sdxl", "guidance": 1.0, "start": "condition", "samples": "noised"}
    assert {name: filled.settings[name] for name in own} == own
    names = origins(run_layers(config, spec, layers))
    variant = "esd, variant sdxl"
    assert names == {
        "max_train_steps": "method",
        "trainable": variant,
        "learning_rate": variant,
        "num_forget_images": "concept",
        "lr_warmup_steps": "size",
    }
    assert (filled.trainable, filled.num_forget_images, filled.lr_warmup_steps) == ("xattn", 7, 1)


@pytest.mark.parametrize("name", registry.names("methods"))
def test_the_families_read_from_a_methods_file_are_those_it_is_defined_for(name: str) -> None:
    module = registry.load("methods", name)
    families = set(module.Method.families)
    if hasattr(module, "DenoiserMethod"):
        families |= module.DenoiserMethod.families
    assert declared_families(name) == families


def test_help_lists_the_methods_that_serve_the_command() -> None:
    def listed(command: str) -> set[str]:
        text = CliRunner().invoke(main, [command, "--help"]).output.partition("Methods:\n")[2]
        return set(re.findall(r"^ +([a-z0-9-]+): [A-Zℓ]", text, re.MULTILINE))

    for command in ("concept", "class"):
        assert listed(command) == {*methods_for(*DENOISERS)}
        assert {"esd", "uce", "retrain"} <= listed(command)
        assert not {"ga", "iu", "ssd"} & listed(command)
    assert listed("classifier") == {*methods_for(CLASSIFIER)}
    assert not {"esd", "uce", "ca"} & listed("classifier")
    assert set(FAMILIES) == DENOISERS


def test_choices_are_those_of_the_libraries() -> None:
    from diffusers.optimization import SchedulerType

    assert set(SCHEDULERS) == {kind.value for kind in SchedulerType}
    assert set(field_specs(EvaluateConfig)["dtype"].choices) == set(DTYPES)


@pytest.mark.parametrize("name", registry.names("methods"))
def test_settings_of_every_method_are_checked_when_they_are_made(name: str) -> None:
    module = registry.load("methods", name)
    for kind in {module.Settings, getattr(module, "DenoiserSettings", module.Settings)}:
        kind()  # its defaults are within its ranges
        for field in field_specs(kind).values():
            assert field.kind is not object, field.name
            if field.kind is not str or field.choices:
                with pytest.raises(InputError, match=f"^{field.name} is "):
                    kind(**{field.name: "no such value"})


def test_a_sweep_is_lur_with_alpha_alone() -> None:
    from erase.comparison.classifier_figures import sweep_alpha

    labels = ("lur@alpha=1e-2", "lur@alpha=0.1@trim=0.9", "lur+dual@alpha=0.1", "iu@alpha=2", "lur")
    assert [sweep_alpha(label) for label in labels] == [0.01, None, None, None, None]
