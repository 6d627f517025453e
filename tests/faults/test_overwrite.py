"""No command writes over what it reads, under whatever path: every one is tried on itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from erase.cli.main import main
from erase.files import hash_file, write_json
from tests.evaluation_world import make_models, pictures
from tests.faults.damage import refused
from tests.faults.test_damage_classifier import TRAIN, ok


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusion run, its base, an evaluation and a classifier."""
    root = make_models(tmp_path_factory.mktemp("sources"))
    record = {"kind": "concept", "status": "finished", "base_model": str(root / "base")}
    target = {"suite": "digits", "concepts": ["three"]}
    write_json(root / "run" / "record.json", {**record, "target": target})
    (root / "run" / "prompts.txt").write_text("the digit 3\n")
    images = root / "evaluation" / "images"
    images.mkdir(parents=True)
    write_json(root / "evaluation" / "record.json", {"kind": "evaluation", "status": "finished"})
    write_json(root / "evaluation" / "metrics.json", {})
    pictures(images, 4)
    ok(*TRAIN, "--output", root / "c")
    return root


SPELLINGS: dict[str, Callable[[Path], Path]] = {
    "plain": lambda path: path,
    "dots": lambda path: path / ".." / path.name,
    "link": lambda path: _link(path),
}


def _link(path: Path) -> Path:
    link = path.with_name(f"{path.name}-link")
    if not link.is_symlink():
        link.symlink_to(path)
    return link


CONCEPT = ("--concept", "three", "--device", "cpu", "--max-train-steps", "1")
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "concept": ("run", ("concept", "--model", "{run}", *CONCEPT, "--overwrite")),
    "concept, resumed": (
        "run",
        ("concept", "--model", "{run}", *CONCEPT, "--resume-from-checkpoint", "latest"),
    ),
    "concept, prompts": (
        "run",
        (
            *("concept", "--model", "mini-sd", *CONCEPT, "--overwrite"),
            *("--forget-prompts", "{run}/prompts.txt"),
        ),
    ),
    "class": ("run", ("class", "--model", "{run}", "--target", "three", "--overwrite")),
    "evaluate": ("run", ("evaluate", "--model", "{run}", "--overwrite")),
    "evaluate, baseline": ("base", ("evaluate", "--model", "{run}", "--overwrite")),
    "evaluate, reference": (
        "evaluation",
        ("evaluate", "--model", "{run}", "--overwrite", "--reference", "{evaluation}/images"),
    ),
    "classifier": (
        "c",
        ("classifier", "--model", "{c}", "--forget", "random:10%", "--overwrite"),
    ),
    "train classifier": (
        "c",
        (*TRAIN, "--weights", "{c}/model.safetensors", "--overwrite"),
    ),
    "compare classifier": (
        "c",
        ("compare", "classifier", "--model", "{c}", "--forget", "class:3", "--methods", "ft"),
    ),
    "compare diffusion": (
        "run",
        ("compare", "diffusion", "--model", "{run}", "--concept", "three", "--methods", "lur"),
    ),
    "report": ("evaluation", ("report", "{evaluation}", "{evaluation}")),
    "demo": ("run", ("demo", "--quick")),
    "train mini-sd": ("run", ("train", "mini-sd", "--overwrite")),
    "train ddpm": ("c", ("train", "ddpm", "--dataset", "digits", "--overwrite")),
}


def content(root: Path) -> dict[str, str]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): hash_file(path) for path in files}


OFTEN = ("concept",)
"""What the default tests try under every spelling; the slow ones try all."""


@pytest.mark.fault("a command on its own input")
@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        pytest.param(
            name,
            spelling,
            marks=[] if spelling == "plain" or name in OFTEN else [pytest.mark.slow],
        )
        for name in COMMANDS
        for spelling in SPELLINGS
    ],
)
def test_a_command_does_not_write_over_what_it_reads(
    sources: Path, name: str, spelling: str
) -> None:
    output, command = COMMANDS[name]
    paths = {item: str(sources / item) for item in ("run", "base", "evaluation", "c")}
    arguments = [item.format(**paths) for item in command]
    target = SPELLINGS[spelling](sources / output)
    before = content(sources)
    result = CliRunner().invoke(main, [*arguments, "--output", str(target)])
    refused(result)
    assert content(sources) == before


@pytest.mark.fault("a command on its own input")
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    "file",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "unet/new.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_an_export_does_not_write_among_the_files_of_its_run(
    sources: Path, file: str, spelling: str
) -> None:
    target = SPELLINGS[spelling](sources / "run") / file
    before = content(sources)
    arguments = ("export", str(sources / "run"), "--format", "single-file", "--overwrite")
    refused(CliRunner().invoke(main, [*arguments, "--output", str(target)]), "among the files")
    assert content(sources) == before
