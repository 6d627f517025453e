"""The public functions: lazy, checked like the commands, and with the commands' results."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import erase
from erase.cli.main import main
from erase.errors import InputError
from erase.files import fingerprint, hash_file, read_json

ROOT = Path(__file__).parent.parent
SMALL: dict[str, Any] = {
    "max_train_steps": 2,
    "train_batch_size": 2,
    "num_forget_images": 3,
    "num_retain_images": 4,
    "render_steps": 2,
}
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"


def command(*arguments: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output


def spelt(options: dict[str, Any]) -> list[str]:
    return [part for k, v in options.items() for part in (f"--{k.replace('_', '-')}", str(v))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api") / "run"
    return erase.concept("mini-sd", "three", output=folder, settings={"alpha": 0.02}, **SMALL)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, erase; assert callable(erase.concept);"
        "assert not {'torch', 'diffusers', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_public_name_is_there_and_described() -> None:
    assert set(erase.__all__) <= set(dir(erase))
    for name in set(erase.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(erase, name)), name
    with pytest.raises(AttributeError, match="has no attribute 'forget'"):
        erase.forget  # noqa: B018


def test_names_of_functions_are_not_those_of_rooms() -> None:
    """Importing a module sets its name on the package, which would hide a function."""
    rooms = {path.stem for path in (ROOT / "erase").iterdir()}
    assert not rooms & set(erase.__all__)


def test_a_concept_from_python_is_the_one_of_the_command(run: Path, tmp_path: Path) -> None:
    options = spelt({"model": "mini-sd", "concept": "three", "alpha": 0.02, **SMALL})
    command("concept", *options, "--output", str(tmp_path / "run"))
    assert hash_file(run / UNET) == hash_file(tmp_path / "run" / UNET)
    again = erase.concept(config=run / "config.yaml", output=tmp_path / "replayed")
    assert hash_file(again / UNET) == hash_file(run / UNET)


def test_a_class_from_python_is_the_concept(run: Path, tmp_path: Path) -> None:
    folder = erase.forget_class(
        "mini-sd", "three", output=tmp_path / "class", settings={"alpha": 0.02}, **SMALL
    )
    assert hash_file(folder / UNET) == hash_file(run / UNET)


def test_evaluate_and_load(run: Path) -> None:
    result = erase.evaluate(run, "digits", images_per_class=1, steps=2, metrics=["ua", "ra"])
    assert result.folder == run / "evaluation-digits"
    assert fingerprint(result.metrics) == fingerprint(read_json(result.folder / "metrics.json"))
    assert set(result.metrics["metrics"]) == {"ua", "ra"}
    assert result.report.is_file()
    pipeline = erase.load(run)
    image = pipeline("a handwritten four", num_inference_steps=2, guidance_scale=1.0).images[0]
    assert image.size == (32, 32)


def test_classifiers(tmp_path: Path) -> None:
    base = tmp_path / "base"
    command("train", "classifier", *spelt({"dataset": "digits", "epochs": 1, "output": base}))
    folder = erase.classifier(base, "random:5%", output=tmp_path / "ft", method="ft", epochs=1)
    assert set(read_json(folder / "metrics.json")["scores"]) >= {"ua", "ra", "ta", "mia"}
    model = erase.load(folder)
    assert not model.training
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    results = erase.compare(
        output=tmp_path / "compare",
        model=base,
        forget="random:5%",
        methods=["ft"],
        settings={"ft.learning_rate": 0.01},
        trials=1,
        epochs=1,
        retrain_epochs=1,
    )
    assert set(results) == {"random:5%"}
    assert [file.name for file in (tmp_path / "compare").rglob("table.*")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: erase.concept("mini-sd", "three", output=out, mixed_precision="fp8"), "fp8"),
        (lambda out: erase.concept("mini-sd", "three", output=out, max_train_steps="ten"), "ten"),
        (lambda out: erase.concept("mini-sd", "three", output=out, stepz=3), "stepz"),
        (lambda out: erase.concept("mini-sd", output=out), "--concept is missing"),
        (lambda out: erase.classifier("nowhere", output=out), "--forget is missing"),
        (lambda out: erase.evaluate("mini-sd", "digits", output=out, step=3), "step"),
        (lambda out: erase.compare(output=out), "concept or forget"),
        (
            lambda out: erase.compare(output=out, concept="x", forget="y"),
            "concept or forget",
        ),
        (lambda out: erase.compare(output=out, model="mini-sd", concept="three", step=1), "step"),
    ],
)
def test_bad_values_are_refused_before_anything_is_made(
    call: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        call(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "script",
    ["lur_on_your_own_model", pytest.param("forget_a_digit", marks=pytest.mark.slow)],
)
def test_examples_run(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{script}.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = "unlearned: forget set" if script.startswith("lur") else "lur: UA"
    assert expected in done.stdout
