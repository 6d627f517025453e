"""Options that no run can use: one line, exit 2, before any model is loaded."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from erase import registry
from erase.cli.main import main
from erase.config.base import LoopConfig
from erase.config.classifier import ClassifierConfig, TrainConfig
from erase.config.compare import CompareConfig, CompareDiffusionConfig
from erase.config.concept import ClassConfig, ConceptConfig
from erase.config.ddpm import DDPMConfig
from erase.config.evaluate import EvaluateConfig
from erase.config.fields import field_specs, typed_values
from erase.config.limits import LARGEST
from erase.errors import InputError

pytestmark = pytest.mark.fault("option no run can use")
LONG, NAME = "a" * 5000, "a" * 300
HUGE = ("1e308", "-1e308", "1e999", "inf", "nan", "9" * 5000, str(2**63), str(-(2**63)))
BRACKETS = "[" * 4000
CONCEPT = ("concept", "--model", "mini-sd", "--concept", "three", "--output", "o")
DDPM = ("train", "ddpm", "--dataset", "digits", "--output", "o")
TRAIN = ("train", "classifier", "--dataset", "digits", "--output", "o")
COMPARE = ("compare", "classifier", "--forget", "random:10%", "--output", "o")
EVALUATE = ("evaluate", "--model", "mini-sd", "--target", "three", "--output", "o")
REFUSED: list[tuple[str, ...]] = [
    (*CONCEPT, "--forget-weight", "1e308"),
    (*CONCEPT, "--alpha", "[]"),
    (*CONCEPT, "--seed", "1e30"),
    (*CONCEPT, "--seed", "9" * 4000),
    (*CONCEPT, "--seed", LONG),
    (*CONCEPT, "--train-batch-size", str(2**31)),
    (*CONCEPT, "--render-batch-size", str(2**31)),
    (*CONCEPT, "--num-forget-images", "99999999999"),
    (*CONCEPT, "--resolution", str(2**31)),
    (*CONCEPT, "--lora-rank", str(2**31)),
    (*CONCEPT, "--set", "alpha=" + BRACKETS),
    (*CONCEPT, "--set", BRACKETS),
    (*CONCEPT, "--set", "=" * 50),
    (*CONCEPT, "--method", NAME),
    (*CONCEPT, "--method", "../lur"),
    (*CONCEPT, "--method", "\x1b[31mlur"),
    (*CONCEPT, "--model", "~nobody-has-this-name/x"),
    (*CONCEPT, "--model", LONG),
    (*CONCEPT, "--model", NAME),
    (*CONCEPT, "--model", "/dev/zero"),
    (*CONCEPT, "--model", "pipe"),
    (*CONCEPT, "--config-from", "."),
    (*CONCEPT, "--model", ""),
    (*CONCEPT, "--concept", LONG),
    (*CONCEPT, "--concept", "th\x1b[31mree"),
    (*CONCEPT, "--concept", "three\udcff"),
    (*CONCEPT, "--output", LONG),
    (*CONCEPT, "--output", NAME),
    (*CONCEPT, "--config", "pipe"),
    (*CONCEPT, "--config", "/dev/zero"),
    (*CONCEPT, "--config", "."),
    (*CONCEPT, "--config", "nothing"),
    (*CONCEPT, "--prompts", "pipe"),
    (*CONCEPT, "--trainable", "((("),
    (*CONCEPT, "--device", "cuda:99999999999999999999"),
    (*CONCEPT, "--\udcff"),
    ("class", "--model", "mini-sd", "--target", NAME, "--output", "o"),
    ("class", "--model", "mini-sd", "--target", "three", "--data", NAME, "--output", "o"),
    (*DDPM, "--channels", str(2**31)),
    (*DDPM, "--blocks", "1000"),
    (*DDPM, "--image-size", str(2**31)),
    (*DDPM, "--multipliers", "9999999999"),
    (*DDPM, "--multipliers", "1," * 500 + "1"),
    (*DDPM, "--multipliers", "a,b"),
    (*DDPM, "--classes", ","),
    (*TRAIN, "--limit", "-3"),
    (*TRAIN, "--weights", "/dev/zero"),
    (*TRAIN, "--weights", "pipe"),
    (*TRAIN, "--weights", "."),
    (*TRAIN, "--weights", "nothing"),
    (*TRAIN, "--weights", "page.html"),
    (*TRAIN, "--weights", "empty.pth"),
    (*TRAIN, "--weights", "list.pth"),
    (*TRAIN, "--weights", "page.safetensors"),
    (*TRAIN, "--arch", NAME),
    (*TRAIN, "--arch", "get_model"),
    ("classifier", "--model", "nothing", "--forget", "class:0", "--output", "o"),
    ("classifier", "--model", NAME, "--forget", "class:0", "--output", "o"),
    (*COMPARE, "--alphas", "abc"),
    (*COMPARE, "--alphas", "nan"),
    (*COMPARE, "--alphas", "1e308"),
    (*COMPARE, "--alphas", "0.1,0.1"),
    (*COMPARE, "--methods", ""),
    (*COMPARE, "--methods", "lur@@"),
    (*COMPARE, "--trials", "9" * 30),
    (*COMPARE, "--jobs", "1e9"),
    ("compare", "diffusion", "--model", "mini-sd", "--concept", NAME, "--output", "o"),
    (*EVALUATE, "--size", "-8"),
    (*EVALUATE, "--size", str(2**31)),
    (*EVALUATE, "--steps", "1000000000"),
    (*EVALUATE, "--batch-size", str(2**31)),
    (*EVALUATE, "--threshold", "2"),
    (*EVALUATE, "--limit", "0"),
    (*EVALUATE, "--set", "fid.features=["),
    (*EVALUATE, "--set", "fid.features=" + BRACKETS),
    (*EVALUATE, "--classifier", NAME),
    (*EVALUATE, "--classifier", "~nobody-has-this-name/x"),
    (*EVALUATE, "--scheduler", "os.system"),
    (*EVALUATE, "--suite", "../digits"),
    ("report", LONG),
    ("report", NAME),
    ("report", "pipe"),
    ("report", "."),
    ("export", LONG, "--format", "lora", "--output", "x.safetensors"),
    ("export", ".", "--format", "lora", "--output", "x.safetensors"),
    ("export", ".", "--format", "lora", "--rank", "-1", "--output", "x.safetensors"),
    ("fetch", "--model", NAME, "--dry-run"),
    ("fetch", "--model", "~nobody-has-this-name/x", "--dry-run"),
    ("fetch", "--weights", NAME, "--dry-run"),
    ("demo", "--images-per-class", "-1"),
    ("demo", "--output", "page.html"),
    ("demo", "--concept", "\x00"),
    (LONG,),
    ("\x1b[31m",),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a pipe and files that are no weights."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("page.html").write_text("<html>not found</html>")
    Path("page.safetensors").write_text("<html>not found</html>")
    Path("empty.pth").write_bytes(b"")
    Path("list.pth").write_bytes(b"\x80\x02]q\x00.")
    return tmp_path


@pytest.mark.timeout(60)
@pytest.mark.parametrize("arguments", REFUSED, ids=lambda item: ascii(" ".join(item))[1:70])
def test_what_no_run_can_use_is_one_line(arguments: tuple[str, ...], folder: Path) -> None:
    before = sorted(folder.iterdir())
    result = CliRunner().invoke(main, list(arguments))
    said = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert result.exit_code == 2, (result.output[-500:], result.exception)
    assert len(said) == 1
    assert len(said[0]) < 520
    assert "not expected" not in result.output
    assert "\x1b" not in result.output
    assert sorted(folder.iterdir()) == before


def configurations() -> dict[str, type]:
    """All dataclasses of settings, those of the methods among them."""
    kinds: list[type] = [LoopConfig, ClassifierConfig, TrainConfig, ConceptConfig, ClassConfig]
    kinds += [CompareConfig, CompareDiffusionConfig, DDPMConfig, EvaluateConfig]
    found = {kind.__name__: kind for kind in kinds}
    for name in registry.names("methods"):
        module = registry.load("methods", name)
        for part in ("Settings", "DenoiserSettings"):
            if hasattr(module, part):
                found[f"{name} {part}"] = getattr(module, part)
    return found


@pytest.mark.parametrize("kind", configurations().values(), ids=configurations())
def test_every_number_has_limits(kind: type) -> None:
    for name, spec in field_specs(kind).items():
        if spec.kind not in LARGEST:
            continue
        highest = [value for value in (spec.range.most, spec.range.below) if value is not None]
        assert max([*highest, LARGEST[spec.kind]]) < 2**63
        for value in (*HUGE, math.inf, math.nan, 10**400, -(10**400)):
            if value == str(2**63) and spec.range.most == 2**63 - 1:
                value = 2**63
            with pytest.raises(InputError, match=f"^{name} is "):
                typed_values(kind, {name: value})


@pytest.mark.parametrize("kind", configurations().values(), ids=configurations())
def test_no_text_holds_control_characters(kind: type) -> None:
    bad: tuple[Any, ...] = ("a\x1b[31mb", "a\x00b", "\x9b1m", "half \ud800", LONG)
    for name, spec in field_specs(kind).items():
        if spec.kind not in (str, tuple):
            continue
        for text in (*bad, *([NAME] if spec.path else [])):
            with pytest.raises(InputError, match=f"^{name} is ") as error:
                typed_values(kind, {name: (text,) if spec.kind is tuple else text})
            assert len(error.value.message) < 200
            assert error.value.message.isprintable()
