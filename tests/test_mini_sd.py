"""The embedded model: what ships, its tokenizer, its renders, and that it can be trained again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from erase.data.digits import digit_captions
from erase.errors import InputError
from erase.models.digit_classifier import DigitClassifier
from erase.models.mini_sd import (
    ASSETS,
    DIGITS_CLASSIFIER,
    MINI_SD,
    build_pipeline,
    caption_words,
    train_mini_sd,
)
from erase.models.mini_sd_quality import evaluation_renders, frechet_distance, render
from erase.record import hash_file


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(
        MINI_SD, use_safetensors=True, local_files_only=True
    )


def test_assets_are_small_and_safe() -> None:
    files = [file for file in ASSETS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 12e6
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
    assert torch.equal(both[0], both[1])
    assert not torch.equal(both[0], both[2])
    alone = render(pipeline, ["the digit 3"], [7], steps=4)
    torch.testing.assert_close(alone[0], both[0], atol=1e-3, rtol=0.0)


def test_renders_are_recognised(pipeline: StableDiffusionPipeline) -> None:
    images, labels = evaluation_renders(pipeline, 3)
    predicted = DigitClassifier.load(DIGITS_CLASSIFIER).predict(images)
    assert (predicted == labels).float().mean() >= 0.9


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


def test_architecture_stays_small() -> None:
    pipeline = build_pipeline(0)
    sizes = [
        sum(p.numel() for p in part.parameters())
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    ]
    assert sum(sizes) < 3e6


def test_frechet_distance_of_known_gaussians() -> None:
    base = np.random.default_rng(0).standard_normal((400, 5))
    assert frechet_distance(base, base) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(base, base + 2.0) == pytest.approx(20.0)  # 5 dimensions moved by 2
    spread = np.trace(np.cov(base, rowvar=False))
    assert frechet_distance(base, 3.0 * (base - base.mean(0)) + base.mean(0)) == pytest.approx(
        4.0 * spread  # (3 - 1)² of the variance
    )
    with pytest.raises(InputError, match="at least two"):
        frechet_distance(base[:1], base)
