"""Where a model sees the same in a concept and in its anchor, there is nothing to forget."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from erase.cli.main import main
from erase.config.concept import ClassConfig, ConceptConfig
from erase.config.families import CLASS_CONDITIONAL, TEXT_TO_IMAGE, methods_for
from erase.data.forget import forget_indices
from erase.errors import InputError, RunError
from erase.tasks.latents import LatentCache
from erase.training import concept as run
from erase.training.distinct import bits, check_changed, check_encoded
from erase.training.plan import plan
from tests.tiny import tiny_cache
from tests.tiny_pipelines import ddpm, sd, sd3, sdxl


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, make in (("sd", sd), ("sdxl", sdxl), ("sd3", sd3), ("ddpm", ddpm)):
        make().save_pretrained(root / name)
    return root


def prompts(folder: Path, forget: str, retain: str = "a car\n") -> dict[str, Any]:
    for name, text in (("forget", forget), ("retain", retain)):
        (folder / f"{name}.txt").write_text(text)
    return {
        "forget_prompts": str(folder / "forget.txt"),
        "retain_prompts": str(folder / "retain.txt"),
    }


@pytest.mark.fault("nothing to forget")
@pytest.mark.parametrize("method", sorted(methods_for(TEXT_TO_IMAGE)))
@pytest.mark.parametrize("anchor", ["three", " Three ", "THREE", "3"])
def test_the_concept_itself_is_no_anchor(method: str, anchor: str) -> None:
    """Of every method, those of closed form among them, and in any spelling."""
    with pytest.raises(InputError, match="the concept itself"):
        plan(ConceptConfig(model="mini-sd", concept=("three",), anchor=anchor, method=method))


@pytest.mark.fault("nothing to forget")
@pytest.mark.parametrize(
    ("concept", "anchor"),
    [("red  panda", "Red panda"), (" red panda", "red\tpanda"), ("nudity", " NUDITY ")],
)
def test_spaces_and_case_make_no_other_concept(
    models: Path, tmp_path: Path, concept: str, anchor: str
) -> None:
    with pytest.raises(InputError, match="the concept itself"):
        plan(ConceptConfig(model=str(models / "sd"), concept=(concept,), anchor=anchor))


@pytest.mark.fault("nothing to forget")
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3"])
@pytest.mark.parametrize(
    ("forget", "anchor"),
    [
        ("a photo of a dog\n", "a photo of a dog"),
        ("a photo of a dog\n", "A  photo of a DOG"),
        ("a cat\na photo of a dog\n", "a photo of a dog"),
        ("a cafe\u0301\n", "a caf\u00e9"),  # an accent of its own, or one letter with it
    ],
)
def test_equal_tokens_are_nothing_to_forget(
    models: Path, tmp_path: Path, name: str, forget: str, anchor: str
) -> None:
    own = prompts(tmp_path, forget)
    with pytest.raises(InputError, match="Nothing to forget"):
        plan(ConceptConfig(model=str(models / name), concept=("pet",), anchor=anchor, **own))


@pytest.mark.fault("nothing to forget")
def test_what_is_cut_off_makes_no_difference(models: Path, tmp_path: Path) -> None:
    same = "a photo of a red car " * 20
    own = prompts(tmp_path, f"{same} cat\n")
    with pytest.raises(InputError, match="Nothing to forget"):
        plan(ConceptConfig(model=str(models / "sd"), concept=("pet",), anchor=f"{same} dog", **own))


@pytest.mark.fault("nothing to forget")
@pytest.mark.parametrize("method", sorted(methods_for(CLASS_CONDITIONAL)))
@pytest.mark.parametrize("anchor", ["cat", "CAT ", "a cat"])
def test_of_a_class_conditional_model(models: Path, method: str, anchor: str) -> None:
    config = ClassConfig(model=str(models / "ddpm"), target=("cat",), anchor=anchor, method=method)
    with pytest.raises(InputError, match=r"the concept itself|Nothing to forget"):
        plan(config)


@pytest.mark.fault("nothing to forget")
def test_an_anchor_that_is_no_class_is_refused_before_rendering(models: Path) -> None:
    config = ClassConfig(model=str(models / "ddpm"), target=("cat",), anchor="a bird")
    with pytest.raises(InputError, match="names no class"):
        plan(config)


@pytest.mark.fault("nothing to forget")
def test_another_anchor_is_accepted(models: Path, tmp_path: Path) -> None:
    own = prompts(tmp_path, "a photo of a dog\n")
    for name in ("sd", "sdxl", "sd3"):
        plan(ConceptConfig(model=str(models / name), concept=("pet",), anchor="a cat", **own))
    plan(ClassConfig(model=str(models / "ddpm"), target=("cat",), anchor="dog"))


@pytest.mark.fault("nothing to forget")
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("random:0", "0 of"),
        ("random:0%", "0 of"),
        ("random:100%", "nothing to retain"),
        ("random:6", "nothing to retain"),
        ("classes:3", "nothing to retain"),
        ("class:a,b,c", "nothing to retain"),
        ("class:empty", "nothing to forget"),
        ("indices", "nothing to forget"),
    ],
)
def test_of_a_classifier(tmp_path: Path, spec: str, said: str) -> None:
    (tmp_path / "none.json").write_text("[]")
    spec = f"indices:{tmp_path / 'none.json'}" if spec == "indices" else spec
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    names = ("a", "b", "c", "empty") if "empty" in spec else ("a", "b", "c")
    with pytest.raises(InputError, match=said):
        forget_indices(spec, labels, names, trained_on=torch.arange(6), seed=0)


@pytest.mark.fault("nothing to forget")
def test_equal_embeddings_are_found_before_training() -> None:
    cache = tiny_cache()
    check_encoded(cache)
    cache.conditions["states"][:] = 1.0
    with pytest.raises(RunError, match="Nothing to forget"):
        check_encoded(cache)


@pytest.mark.fault("nothing forgotten")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_one_changed_value_is_a_change(dtype: torch.dtype) -> None:
    tensors = [torch.ones(3, 4, dtype=dtype), torch.ones(2, dtype=dtype)]
    before = bits(tensors)
    with pytest.raises(RunError, match="changed no weight"):
        check_changed(before, tensors, [])
    if dtype.is_floating_point:
        zeros = [torch.tensor([-0.0, 1.0], dtype=dtype)]
        assert bits(zeros) == bits([torch.tensor([0.0, 1.0], dtype=dtype)])
    tensors[1][1] = 2
    check_changed(before, tensors, [0.5, 0.0])
    with pytest.raises(RunError, match="0 in each of 2 steps"):
        check_changed(before, tensors, [0.0, 0.0])


TINY = [
    *("--max-train-steps", "2", "--num-forget-images", "2", "--num-retain-images", "9"),
    *("--num-anchor-images", "2", "--render-steps", "1", "--train-batch-size", "2"),
]


@pytest.mark.fault("nothing forgotten")
def test_a_run_that_changes_no_weight_fails_and_saves_nothing(tmp_path: Path) -> None:
    command = ["concept", "--model", "mini-sd", "--concept", "three", *TINY, "--device", "cpu"]
    done = CliRunner().invoke(
        main, [*command, "--learning-rate", "1e-60", "--output", str(tmp_path / "out")]
    )
    assert done.exit_code == 1, done.output
    assert "changed no weight" in done.output
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["status"] == "failed"
    assert not (tmp_path / "out" / "model_index.json").exists()


@pytest.mark.fault("nothing forgotten")
def test_a_rate_of_0_is_refused_and_a_single_step_has_no_warm_up() -> None:
    config = ConceptConfig(model="mini-sd", concept=("three",), max_train_steps=1)
    assert plan(config).config.lr_warmup_steps == 0
    assert plan(config.replace(max_train_steps=2)).config.lr_warmup_steps == 5
    with pytest.raises(InputError, match="learning_rate is 0"):
        plan(config.replace(learning_rate=0.0))


@pytest.mark.slow
@pytest.mark.fault("nothing forgotten")
def test_a_run_whose_forget_loss_is_always_0_fails(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The anchors are made the captions' own after everything was checked."""
    read = LatentCache.read

    def same(path: Path) -> Any:
        cache = read(path)
        cache.anchors[:] = torch.arange(len(cache.anchors))[:, None]
        return cache

    monkeypatch.setattr(run, "LatentCache", SimpleNamespace(read=same))
    monkeypatch.setattr(run, "check_encoded", lambda _: None)
    command = ["concept", "--model", "mini-sd", "--concept", "three", *TINY, "--device", "cpu"]
    command += ["--learning-rate", "1e-4", "--lr-scheduler", "constant"]
    done = CliRunner().invoke(main, [*command, "--output", str(tmp_path / "out")])
    assert done.exit_code == 1, done.output
    assert "the forget loss was 0 in each of 2 steps" in done.output
    shutil.rmtree(tmp_path / "out")
