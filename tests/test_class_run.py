"""`erase class`: trees of class folders, real and rendered images, both kinds of models."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from erase.cli.main import main
from erase.config.concept import ClassConfig
from erase.data.captioned import CaptionedImages
from erase.data.classes import find_imagenette, plain_list, read_class_folder, with_captions
from erase.data.classification import Augmentation, ClassificationData, LabelledSet
from erase.data.concepts import find_concept
from erase.data.prompts import class_lists, prompts_root
from erase.errors import InputError
from erase.files import read_json, write_json
from erase.models.loading import resolve
from erase.runs.record import RECORD
from erase.training import classes
from erase.training.classes import class_sets
from tests.tiny_pipelines import SIZE, ddpm, sd

LISTS = class_lists(prompts_root())
GOLF, CHURCH, HORN = "n03445777", "n03028079", "n03394916"


def tree(root: Path, counts: dict[str, int], side: int = 20) -> Path:
    """A folder of images a class; those of a class are of one grey."""
    for number, (name, count) in enumerate(counts.items()):
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(count):
            pixels = np.full((side, side, 3), 40 * number + index, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd")
    sd().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_ddpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddpm")
    ddpm().save_pretrained(folder)
    return folder


# Trees of class folders


def test_wnids_become_the_names_of_imagenette_in_its_order(tmp_path: Path) -> None:
    root = tree(tmp_path / "train", {GOLF: 2, CHURCH: 3}).parent
    found = read_class_folder(root, LISTS)
    assert found.classes.names == ("church", "golf ball")
    assert found.classes.suite == "imagenette"
    assert [len(files) for files in found.files] == [3, 2]
    assert all(file.parent.name == CHURCH for file in found.files[0])


def test_names_with_underscores_and_any_case_are_known_too(tmp_path: Path) -> None:
    found = read_class_folder(tree(tmp_path, {"Golf_Ball": 1, "french horn": 1}), LISTS)
    assert found.classes.names == ("French horn", "golf ball")


def test_folders_of_no_list_are_classes_by_their_names(tmp_path: Path) -> None:
    found = read_class_folder(tree(tmp_path, {"red_panda": 1, "golf ball": 1}), LISTS)
    assert found.classes.names == ("golf ball", "red panda")
    assert found.classes.suite is None
    assert found.classes.captions("forget", 1) == ["an image of a red panda"]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({GOLF: 1}, "holds 1 class folders"),
        ({GOLF: 1, CHURCH: 0}, f"{CHURCH} holds no image"),
        ({GOLF: 1, "golf ball": 1}, "two folders of the class 'golf ball'"),
    ],
)
def test_a_tree_that_cannot_be_used(tmp_path: Path, counts: dict[str, int], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_class_folder(tree(tmp_path, counts), LISTS)
    assert said in caught.value.message
    with pytest.raises(InputError, match="There is no folder"):
        read_class_folder(tmp_path / "absent", LISTS)


def test_a_part_is_drawn_from_all_classes_alike(tmp_path: Path) -> None:
    found = read_class_folder(tree(tmp_path, {"a": 9, "b": 3, "c": 9}), [])
    texts = {"a": ["an a"], "c": ["a c", "the c"]}
    part = with_captions(found, texts, 6, seed=0)
    assert sorted(path.parent.name for path in part.paths) == ["a"] * 3 + ["c"] * 3
    assert all(text[-1] == path.parent.name for path, text in zip(*vars(part).values()))  # noqa: B905
    assert set(part.captions) == {"an a", "a c", "the c"}
    assert with_captions(found, texts, 6, seed=0) == part
    assert with_captions(found, texts, 6, seed=1) != part
    assert len(with_captions(found, texts, None, seed=0).paths) == 18
    with pytest.raises(InputError, match="19 images of a, c are asked for, and there are 18"):
        with_captions(found, texts, 19, seed=0)


def test_imagenette_is_found_or_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Imagenette is not in") as caught:
        find_imagenette(tmp_path)
    assert str(tmp_path) in caught.value.remedy
    folder = tree(tmp_path / "imagenette2-320" / "train", {"n01440764": 1}).parent
    assert find_imagenette(tmp_path) == folder
    assert find_imagenette(folder) == folder


# What the sets are made of


def sets_of(model: str | Path, target: str, **changes: object) -> tuple[object, ...]:
    config = ClassConfig(model=str(model), target=(target,), **changes)  # type: ignore[arg-type]
    return class_sets(config, resolve(str(model)))


def test_a_rendered_class_is_the_concept_of_that_name() -> None:
    assert sets_of("mini-sd", "3")[0] == find_concept("three", prompts_root())
    concept, given = sets_of("mini-sd", "3", anchor="random")
    assert concept.names == ("three",)  # type: ignore[attr-defined]
    assert given == {}
    assert len(concept.anchors[0]) == 9  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("target", "changes", "said", "hint"),
    [
        ("thre", {}, "There is no class 'thre'", "Did you mean 'three'?"),
        ("golf ball", {}, "There is no class 'golf ball'", "Known: zero"),
        ("three", {"anchor": "three"}, "is the concept itself", "another class"),
        ("three", {"data": "cifar10"}, "is for class-conditional models", "imagenette"),
        ("three", {"data": "absent"}, "There is no folder absent", ""),
    ],
)
def test_bad_input_on_mini_sd(
    target: str, changes: dict[str, object], said: str, hint: str
) -> None:
    with pytest.raises(InputError) as caught:
        sets_of("mini-sd", target, **changes)
    assert said in caught.value.message
    assert hint in caught.value.remedy


def test_real_images_under_the_sources_sentence(tmp_path: Path, tiny_sd: Path) -> None:
    data = tree(tmp_path, {GOLF: 4, CHURCH: 3, HORN: 3})
    concept, given = sets_of(tiny_sd, "golf ball", data=str(data))
    forget, retain = given["forget"], given["retain"]  # type: ignore[index]
    assert {path.parent.name for path in forget.paths} == {GOLF}
    assert set(forget.captions) == {"an image of a golf ball"}
    assert {path.parent.name for path in retain.paths} == {CHURCH, HORN}
    assert set(retain.captions) == {"an image of a church", "an image of a French horn"}
    assert concept.anchors == (("an image of a church",),)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="There is no class 'golf bal'") as caught:
        sets_of(tiny_sd, "golf bal", data=str(data))
    assert "'golf ball'" in caught.value.remedy


def test_the_sizes_of_the_sets_are_told_to_the_recipe(tmp_path: Path, tiny_sd: Path) -> None:
    data = tree(tmp_path / "data", {GOLF: 20, CHURCH: 3})
    concept, _ = sets_of(tiny_sd, "golf ball", data=str(data))
    sizes = {"num_forget_images": 20, "num_retain_images": 3}
    assert concept.recipe == sizes  # type: ignore[attr-defined]


def test_a_class_conditional_model_takes_folders_by_its_own_names(
    tmp_path: Path, tiny_ddpm: Path
) -> None:
    data = tree(tmp_path / "a", {"cat": 2, "red_car": 2})
    concept, given = sets_of(tiny_ddpm, "red car", data=str(data))
    assert set(given["forget"].captions) == {"red car"}  # type: ignore[index]
    assert concept.anchors == (("cat",),)  # type: ignore[attr-defined]
    strange = tree(tmp_path / "b", {"cat": 1, "zebra": 1})
    with pytest.raises(InputError, match="the class 'zebra', which the model does not know"):
        sets_of(tiny_ddpm, "cat", data=str(strange))


def data_of(names: tuple[str, ...], side: int = SIZE) -> ClassificationData:
    """Three images of each class; all pixels of one are 10 × its label."""
    labels = torch.arange(len(names)).repeat(3)
    images = (10 * labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, side, side).contiguous()
    held = LabelledSet(images, labels)
    grey = (0.5,) * 3
    return ClassificationData("x", names, held, held, grey, grey, Augmentation(side), "x")


def test_cifar_labels_are_matched_by_name(monkeypatch: pytest.MonkeyPatch, tiny_ddpm: Path) -> None:
    monkeypatch.setattr(classes, "load_dataset", lambda *_: data_of(("dog", "red car", "cat")))
    _, given = sets_of(tiny_ddpm, "dog", data="cifar10")
    forget = given["forget"]  # type: ignore[index]
    assert forget.labels.tolist() == [1, 1, 1]  # the model's label of dog
    assert forget.images.unique().tolist() == [0]  # the data's images of dog
    assert set(given["retain"].labels.tolist()) == {0, 2}  # type: ignore[index]
    monkeypatch.setattr(classes, "load_dataset", lambda *_: data_of(("dog", "cat", "cow")))
    with pytest.raises(InputError, match="no class red car, which the model knows"):
        sets_of(tiny_ddpm, "dog", data="cifar10")


def test_images_of_classes_forgotten_before_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_sd: Path, tiny_ddpm: Path
) -> None:
    def run_of(model: Path, forgotten: str) -> Path:
        run = tmp_path / model.name
        shutil.copytree(model, run)
        write_json(run / RECORD, {"target": {"suite": None, "concepts": [forgotten]}})
        return run

    data = tree(tmp_path / "data", {GOLF: 4, CHURCH: 3, HORN: 3})
    concept, given = sets_of(run_of(tiny_sd, "church"), "golf ball", data=str(data))
    assert {path.parent.name for path in given["retain"].paths} == {HORN}  # type: ignore[index]
    assert concept.anchors == (("an image of a French horn",),)  # type: ignore[attr-defined]
    monkeypatch.setattr(classes, "load_dataset", lambda *_: data_of(("dog", "red car", "cat")))
    _, given = sets_of(run_of(tiny_ddpm, "cat"), "dog", data="cifar10")
    assert given["forget"].labels.tolist() == [1, 1, 1]  # type: ignore[index]
    assert len(set(given["retain"].labels.tolist())) == 1  # type: ignore[index]


def test_a_plain_list_has_a_caption_for_everything() -> None:
    assert plain_list(["x"]).captions("evaluate", 0) == ["an image of a x"]
    assert CaptionedImages((), ()).paths == ()


# Whole runs through the command line

TINY = [
    *("--render-steps", "1", "--render-batch-size", "4", "--train-batch-size", "2"),
    *("--max-train-steps", "1", "--device", "cpu"),
]


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["class", *(str(item) for item in arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def test_a_class_of_mini_sd_whole(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    few = ("--num-forget-images", "2", "--num-retain-images", "3")
    run("--model", "mini-sd", "--target", "three", "--output", folder, *few, *TINY)
    record = read_json(folder / "record.json")
    assert record["status"] == "finished"
    assert record["target"] == {"suite": "digits", "concepts": ["three"]}
    said = run("--config", folder / "config.yaml", "--output", tmp_path / "again", "--dry-run")
    assert "target:\n- three\n" in said


def test_real_images_through_a_tiny_stable_diffusion(tmp_path: Path, tiny_sd: Path) -> None:
    data = tree(tmp_path / "data", {GOLF: 4, CHURCH: 5})
    folder = tmp_path / "run"
    model = ("--model", tiny_sd, "--target", "golf ball")
    run(*model, "--data", data, "--output", folder, *TINY)
    cache = load_file(folder / "latents.safetensors")
    assert len(cache["set.forget.mean"]) == 4
    assert len(cache["set.retain.mean"]) == 5
    config = (folder / "config.yaml").read_text()
    assert "num_forget_images: 4\n" in config
    assert "num_retain_images: 5\n" in config
    assert "4 images of data" in (folder / "README.md").read_text()
    assert not (folder / "data").exists(), "nothing was rendered"
    said = run(*model, "--data", data, "--output", data, "--overwrite", *TINY, code=2)
    assert "is no erase run" in said
    assert (data / GOLF / "0.png").is_file()
    (data / GOLF / "0.png").write_bytes(b"not an image")
    said = run(*model, "--data", data, "--output", tmp_path / "broken", *TINY, code=2)
    assert "0.png is not a readable image" in said
    assert not (tmp_path / "broken").exists()


def test_a_class_conditional_model_whole(tmp_path: Path, tiny_ddpm: Path) -> None:
    data = tree(tmp_path / "data", {"cat": 3, "dog": 3}, side=SIZE)
    folder = tmp_path / "run"
    more: tuple[str | Path, ...] = (
        "--data",
        data,
        "--output",
        folder,
        *TINY,
        "--max-train-steps",
        "2",
    )  # warm-up is at 0
    run("--model", tiny_ddpm, "--target", "dog", *more)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "ClassConditionalPipeline"
    before = load_file(tiny_ddpm / "unet" / "diffusion_pytorch_model.safetensors")
    after = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    rendered = tmp_path / "rendered"
    few = ("--num-forget-images", "2", "--num-retain-images", "3")
    run("--model", tiny_ddpm, "--target", "dog", "--output", rendered, *few, *TINY)
    rows = (rendered / "data" / "forget" / "metadata.jsonl").read_text()
    assert rows.count('"dog"') == 2


def test_concept_takes_a_class_of_such_a_model_too(tmp_path: Path, tiny_ddpm: Path) -> None:
    arguments = ("--model", str(tiny_ddpm), "--output", str(tmp_path / "x"), "--dry-run")
    result = CliRunner().invoke(main, ["concept", "--concept", "dog", *arguments])
    assert result.exit_code == 0, result.output
    assert "# forget prompts: 1, e.g. 'dog'" in result.output
    assert "# shown instead: e.g. 'red car'" in result.output
    result = CliRunner().invoke(main, ["concept", "--concept", "dgo", *arguments])
    assert result.exit_code == 2
    assert "There is no class 'dgo'" in result.output


def test_no_target_and_data_that_is_not_there(tmp_path: Path) -> None:
    model = ("--model", "mini-sd", "--output", tmp_path / "x")
    assert "--target is missing" in run(*model, code=2)
    imagenette = ("--data", "imagenette", "--data-dir", tmp_path, "--target", "golf ball")
    assert "Imagenette is not in" in run(*model, *imagenette, code=2)
    assert not (tmp_path / "x").exists()
