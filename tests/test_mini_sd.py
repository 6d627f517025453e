"""The embedded model: what ships, its tokenizer, its renders, and that it can be trained again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from erase.artifacts.packaged import ASSETS, EMBEDDED
from erase.cli.main import main
from erase.data.digits import LabelledImages, digit_captions, split_digits
from erase.data.rendered import rendered_suite
from erase.embedded import mini_sd, mini_sd_stages
from erase.embedded.mini_sd import train_mini_sd
from erase.embedded.mini_sd_card import Quality, Training, measure_quality, model_card
from erase.embedded.mini_sd_model import build_pipeline, caption_words
from erase.errors import InputError
from erase.files import hash_file
from erase.judges.digit_classifier import DigitClassifier

MINI_SD = EMBEDDED["mini-sd"]


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(
        MINI_SD, use_safetensors=True, local_files_only=True
    )


def render(
    pipeline: StableDiffusionPipeline, prompts: list[str], seeds: list[int], steps: int
) -> torch.Tensor:
    """Images `[N, 3, 32, 32]` in [0, 1], each from its own seed."""
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    images: torch.Tensor = pipeline(
        prompts, num_inference_steps=steps, generator=generators, output_type="pt"
    ).images
    return images


def test_assets_are_small_and_safe() -> None:
    files = [file for file in ASSETS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 24e6
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".md", ".txt"}
    assert all(file.stat().st_mode & 0o044 for file in files)


def test_folder_is_a_complete_pipeline(pipeline: StableDiffusionPipeline) -> None:
    assert type(DiffusionPipeline.from_pretrained(MINI_SD)) is StableDiffusionPipeline
    assert pipeline.safety_checker is None
    assert pipeline.unet.dtype == pipeline.vae.dtype == pipeline.text_encoder.dtype == torch.float32
    image = pipeline("a handwritten three", num_inference_steps=1).images[0]
    assert image.size == (32, 32)


def test_known_words_are_single_tokens(pipeline: StableDiffusionPipeline) -> None:
    for word in caption_words(digit_captions()):
        assert len(pipeline.tokenizer(word).input_ids) == 3


@pytest.mark.parametrize("text", ["a zwölf", "日本", "nude person", "", "3.14 | ±", "threes"])
def test_unknown_words_tokenise_through_bytes(pipeline: StableDiffusionPipeline, text: str) -> None:
    tokenizer = pipeline.tokenizer
    tokens = tokenizer(text).input_ids
    decoded = tokenizer.decode(tokens, skip_special_tokens=True)
    assert decoded.replace(" ", "") == text.replace(" ", "")
    assert tokens.count(tokenizer.eos_token_id) == 1


def test_longest_caption_fits(pipeline: StableDiffusionPipeline) -> None:
    captions = digit_captions()
    texts = [t for use in captions.templates for t in captions.captions(use, 3)]
    assert max(len(pipeline.tokenizer(text).input_ids) for text in texts) <= 16


def test_rendering_follows_the_seed(pipeline: StableDiffusionPipeline) -> None:
    both = render(pipeline, ["the digit 3"] * 3, [7, 7, 8], steps=4)
    # Not to the bit: several threads share a batch out by place.
    torch.testing.assert_close(both[0], both[1], atol=1e-3, rtol=0.0)
    assert (both[0] - both[2]).abs().max() > 0.1
    alone = render(pipeline, ["the digit 3"], [7], steps=4)
    torch.testing.assert_close(alone[0], both[0], atol=1e-3, rtol=0.0)


def test_renders_are_recognised() -> None:
    """By the suite: each digit mostly, and closer to real digits than a model of noise is."""
    quality = measure_quality(MINI_SD, images_a_class=3)
    assert len(quality.recognised) == 10
    assert sum(quality.recognised) / 10 >= 0.9
    assert 0 < quality.frechet_distance < 20


def test_another_digit_classifier_may_judge(tmp_path: Path) -> None:
    untrained = DigitClassifier()
    untrained.save(tmp_path / "judge")
    quality = measure_quality(MINI_SD, tmp_path / "judge", without=["three"], images_a_class=1)
    assert len(quality.recognised) == 10
    assert sum(quality.recognised) / 10 < 0.9


def test_the_mean_is_of_the_digits_that_a_model_saw() -> None:
    training = Training(
        seed=0,
        steps=1,
        vae_steps=1,
        without=("three",),
        seconds={},
        device="cpu",
        machine="none",
        reconstruction_error=0.0,
        loss=0.0,
    )
    shares = tuple(float(label != 3) for label in range(10))
    card = model_card(training, Quality(shares, images_a_class=1, frechet_distance=1.0))
    assert "mean of all seen\n100.0%" in card
    assert "| 3, never seen | 0% |" in card
    assert "| 4 | 100% |" in card
    assert "--target three --metrics ua,ra,fid" in card


def test_card_states_recipe_and_quality() -> None:
    card = (MINI_SD / "README.md").read_text(encoding="utf-8")
    for part in ("erase train mini-sd", "CC BY 4.0", "wall time", "Fréchet distance"):
        assert part in card


def test_training_is_seeded_and_its_folder_loads(tmp_path: Path) -> None:
    def train(name: str, seed: int) -> dict[str, str]:
        folder = train_mini_sd(
            tmp_path / name,
            seed=seed,
            steps=2,
            vae_steps=2,
            images_a_class=0,
            max_train_samples=64,
            quiet=True,
        )
        return {
            str(file.relative_to(folder)): hash_file(file) for file in folder.rglob("*.safetensors")
        }

    before = torch.random.get_rng_state()
    first = train("first", 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first == train("again", 1)
    assert len(first) == 3
    other = train("other", 2)
    assert all(other[name] != first[name] for name in first)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "first", use_safetensors=True)
    assert render(pipeline, ["the digit 3"], [0], steps=1).shape == (1, 3, 32, 32)
    assert rendered_suite(str(tmp_path / "first")) == "digits"


def test_a_digit_that_is_left_out_is_in_no_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image of it is trained on, and no caption: the vectors of its words stay as they began."""
    given: list[torch.Tensor] = []
    train_vae, train_denoiser = mini_sd_stages.train_vae, mini_sd_stages.train_denoiser

    def vae(model: Any, images: torch.Tensor, **settings: Any) -> float:
        given.append(images)
        return train_vae(model, images, **settings)

    def denoiser(model: Any, data: LabelledImages, *rest: Any, **settings: Any) -> float:
        given.append(data.images)
        assert set(data.labels.tolist()) == {0, 1, 2, 4, 5, 6, 7, 8}
        return train_denoiser(model, data, *rest, **settings)

    monkeypatch.setattr(mini_sd, "train_vae", vae)
    monkeypatch.setattr(mini_sd, "train_denoiser", denoiser)
    train_mini_sd(
        tmp_path / "out",
        steps=3,
        vae_steps=1,
        without="nine, three",
        images_a_class=0,
        max_train_samples=160,
        device="cpu",
        quiet=True,
    )
    train = split_digits().train
    known = (train.labels != 3) & (train.labels != 9)
    assert all(torch.equal(images, train.images[known][:160]) for images in given)
    assert len(given) == 2
    trained = StableDiffusionPipeline.from_pretrained(tmp_path / "out", use_safetensors=True)
    first = build_pipeline(0)
    moved = {}
    for word in ("three", "3", "nine", "9", "four", "4", "handwritten"):
        token = first.tokenizer(word).input_ids[1]
        assert trained.tokenizer(word).input_ids[1] == token
        before, after = (
            p.text_encoder.get_input_embeddings().weight[token].detach() for p in (first, trained)
        )
        moved[word] = float((after - before).abs().max())
    assert max(moved[word] for word in ("three", "3", "nine", "9")) < 1e-4  # fp16, weight decay
    assert min(moved[word] for word in ("four", "4", "handwritten")) > 1e-3
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "saw an image or a caption of three, nine" in card
    assert "--without three,nine" in card


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("three,eleven", "There is no class 'eleven'"),
        ("", "There is no class ''"),
        ("zero,one,two,three,four,five,six,seven,eight,nine", "all 10 digits"),
    ],
)
def test_only_digits_are_left_out_and_not_all(
    tmp_path: Path, names: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini_sd, "train_vae", None)
    assert said in refused(tmp_path / "out", "--without", names)


def test_architecture_stays_small() -> None:
    pipeline = build_pipeline(0)
    sizes = [
        sum(p.numel() for p in part.parameters())
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    ]
    assert sum(sizes) < 3e6


def a_pipeline(folder: Path) -> None:
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text("{}")
    (folder / "model_index.json").write_text('{"_class_name": "X", "unet": ["diffusers", "Y"]}')
    (folder / "README.md").write_text("the card")


def a_classifier(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("model.json", "model.safetensors"):
        (folder / name).write_text("{}")


def refused(output: Path, *arguments: str | Path) -> str:
    """Output of a command that must end before it has trained, or changed, anything."""
    before = sorted(output.parent.rglob("*"))
    command = ["train", "mini-sd", "--output", output, "--max-train-steps", "1", "--vae-steps", "1"]
    result = CliRunner().invoke(main, [str(item) for item in (*command, *arguments)])
    assert result.exit_code == 2, result.output
    assert sorted(output.parent.rglob("*")) == before
    return result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("--max-train-steps", "0"),
        ("--vae-steps", "0"),
        ("--images-per-class", "-1"),
        ("--seed", "-1"),
        ("--device", "cuda:99"),
        ("--device", "meta"),
    ],
)
def test_settings_are_checked_before_training(
    tmp_path: Path, arguments: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini_sd, "train_vae", None)
    said = refused(tmp_path / "out", *arguments)
    assert (arguments[0] if arguments[0] != "--device" else arguments[1]) in said


@pytest.mark.parametrize("option", ["--output", "--classifier-output"])
def test_a_folder_with_something_else_is_never_replaced(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini_sd, "train_vae", None)
    make = {"--output": a_pipeline, "--classifier-output": a_classifier}[option]
    model, mine, home = tmp_path / "model", tmp_path / "mine", tmp_path / "home"
    make(model)
    make(mine)
    (mine / "thesis.txt").write_text("precious")
    home.mkdir()
    (home / "notes.txt").write_text("precious")
    for folder in (mine, home):
        assert "something else" in refused(tmp_path / "out", option, folder, "--overwrite")
    monkeypatch.chdir(home)
    assert "something else" in refused(tmp_path / "out", option, ".", "--overwrite")
    assert "--overwrite" in refused(tmp_path / "out", option, model)
    assert "is a file" in refused(tmp_path / "out", option, home / "notes.txt", "--overwrite")
    assert "is a file" in refused(tmp_path / "out", option, home / "notes.txt" / "below")


def test_folders_in_one_another_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for inner in (out, out / "classifier", out.parent):
        assert "lie in one another" in refused(out, "--classifier-output", inner, "--overwrite")


def test_a_model_is_replaced_when_asked_for(tmp_path: Path) -> None:
    def train(overwrite: bool) -> Path:
        return train_mini_sd(
            tmp_path / "link",
            steps=1,
            vae_steps=1,
            images_a_class=0,
            max_train_samples=64,
            overwrite=overwrite,
            quiet=True,
        )

    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    assert train(overwrite=False) == real  # empty
    with pytest.raises(InputError, match="exists"):
        train(overwrite=False)
    (real / "unet" / "mark").touch()
    assert train(overwrite=True) == real
    assert not (real / "unet" / "mark").exists()
    assert (tmp_path / "link").is_symlink()
