"""`mini-sd`: a small Stable Diffusion that draws handwritten digits, trained from scratch."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel

from erase.core.rng import derive_seed
from erase.data.digits import CLASSES, IMAGE_SIZE, LabelledImages, digit_captions, split_digits
from erase.data.prompts import ClassList
from erase.embedded.digit_tokenizer import MAX_TOKENS, build_tokenizer
from erase.embedded.mini_sd_card import Training, model_card
from erase.embedded.mini_sd_quality import measure_quality
from erase.embedded.mini_sd_stages import decode, encode, train_denoiser, train_vae
from erase.errors import InputError
from erase.files import atomic_directory, read_json
from erase.judges.digit_classifier import (
    DESCRIPTION,
    DIGITS_CLASSIFIER,
    WEIGHTS,
    DigitClassifier,
    train_classifier,
)
from erase.models.loading import save_pipeline
from erase.runs.checks import check_device, check_writable
from erase.runs.folder import ResultFolder

INDEX, CARD = "model_index.json", "README.md"
VAE_STEPS = 700
DENOISER_STEPS = 2000
TEXT_WIDTH = 64
LATENT_SIZE = 8


def caption_words(captions: ClassList) -> tuple[str, ...]:
    """Return, sorted, every word of every caption: the words that `mini-sd` has a token for."""
    texts = [
        text
        for use in captions.templates
        for label in range(CLASSES)
        for text in captions.captions(use, label)
    ]
    return tuple(sorted({word for text in texts for word in re.findall(r"[^\W\d_]+|\d", text)}))


def build_pipeline(seed: int, captions: ClassList | None = None) -> StableDiffusionPipeline:
    """Build an untrained `mini-sd` in float32 on the CPU.

    Args:
        seed: Seed of the initial weights; the global random state is left as it was.
        captions: The captions whose words the tokenizer knows; default: the project's own.
    """
    tokenizer = build_tokenizer(caption_words(captions or digit_captions()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("mini-sd", "weights", seed))
        vae = AutoencoderKL(
            sample_size=IMAGE_SIZE,
            block_out_channels=(16, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=8,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=2 * TEXT_WIDTH,
                projection_dim=TEXT_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=MAX_TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=LATENT_SIZE,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            layers_per_block=1,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=4,  # for this class of model: the number of heads
            norm_num_groups=16,
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",  # rendering then starts from the noisiest step
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def train_mini_sd(
    output: Path,
    *,
    seed: int = 0,
    steps: int = DENOISER_STEPS,
    vae_steps: int = VAE_STEPS,
    classifier_output: Path | None = None,
    images_a_class: int = 50,
    max_train_samples: int | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Train `mini-sd` on the digits' training images and write it as a diffusers folder.

    The same seed on the same machine gives the same weights. Nothing appears at `output` before
    training has finished.

    Args:
        output: Folder to write: fp16 safetensors and a model card.
        seed: Seed of the initial weights, batches, captions and noise.
        steps: Optimizer steps of the denoiser with its text encoder.
        vae_steps: Optimizer steps of the autoencoder.
        classifier_output: Folder for a digit classifier trained along with it; default: the
            shipped one measures.
        images_a_class: Images of each digit rendered to measure the quality for the card; 0: do
            not measure.
        max_train_samples: Use only so many training images; default: all.
        device: "cpu" or "cuda".
        overwrite: Replace a pipeline at `output` and a classifier at `classifier_output`.
        quiet: Show no progress bars.

    Returns:
        `output`, absolute and without symbolic links.

    Raises:
        InputError: Before training, when the device is not there or a folder cannot be used: it
            holds something, unless that is to be replaced; one lies in the other.
    """
    check_device(device)
    output = output.resolve()
    _PipelineFolder(output, "mini-sd", overwrite=overwrite).check()
    if classifier_output is not None:
        classifier_output = classifier_output.resolve()
        _ClassifierFolder(
            classifier_output, "classifier", overwrite=overwrite, option="--classifier-output"
        ).check()
        if output.is_relative_to(classifier_output) or classifier_output.is_relative_to(output):
            raise InputError(
                f"{output} and {classifier_output} lie in one another.",
                "Give two folders side by side.",
            )
    if images_a_class and classifier_output is None:
        DigitClassifier.load(DIGITS_CLASSIFIER)  # a missing judge is found out before training
    captions = digit_captions()
    train = split_digits().train
    data = LabelledImages(
        train.images[:max_train_samples].to(device), train.labels[:max_train_samples].to(device)
    )
    pipeline = build_pipeline(seed, captions).to(device)
    seconds: dict[str, tuple[float, float]] = {}
    reconstruction_error = _timed(
        seconds,
        "autoencoder",
        lambda: train_vae(pipeline.vae, data.images, seed=seed, steps=vae_steps, quiet=quiet),
    )
    if classifier_output is not None:
        rebuilt = decode(pipeline.vae, encode(pipeline.vae, train.images.to(device)))
        _timed(
            seconds,
            "digit classifier",
            lambda: train_classifier(
                classifier_output, seed=seed, reconstructions=rebuilt, device=device, quiet=quiet
            ),
        )
    loss = _timed(
        seconds,
        "denoiser",
        lambda: train_denoiser(pipeline, data, captions, seed=seed, steps=steps, quiet=quiet),
    )
    with atomic_directory(output) as folder:
        save_pipeline(pipeline, folder, torch.float16)
        quality = None
        if images_a_class:
            quality = measure_quality(
                folder,
                DigitClassifier.load(classifier_output or DIGITS_CLASSIFIER),
                images_a_class=images_a_class,
                device=device,
                quiet=quiet,
            )
        training = Training(
            seed=seed,
            steps=steps,
            vae_steps=vae_steps,
            seconds=seconds,
            machine=f"{device}, {platform.machine()}, {torch.get_num_threads()} threads "
            f"of {os.cpu_count()} cores",
            reconstruction_error=reconstruction_error,
            loss=loss,
        )
        (folder / CARD).write_text(model_card(training, quality), encoding="utf-8")
    return output


class _PipelineFolder(ResultFolder):
    """A folder that appears whole, without a record: a pipeline, its card and nothing else."""

    def check(self) -> bool:
        """As any folder's; its parent is checked too, in which the folder is replaced."""
        continued = super().check()
        check_writable(self.path.parent, self.option)
        return continued

    def is_empty(self) -> bool:
        """Whether the folder is absent or has nothing in it."""
        return not self.path.exists() or not self._names()

    def is_ours(self) -> bool:
        """Whether the folder holds what `erase train mini-sd` writes, and nothing else."""
        index = self.path / INDEX
        parts = read_json(index) if index.is_file() else None
        return isinstance(parts, dict) and self._names() <= {INDEX, CARD, *parts}

    def _names(self) -> set[str]:
        return {item.name for item in self.path.iterdir()}


class _ClassifierFolder(_PipelineFolder):
    """A folder that appears whole: a digit classifier and nothing else."""

    def is_ours(self) -> bool:
        """Whether the folder holds a digit classifier, and nothing else."""
        return self._names() == {WEIGHTS, DESCRIPTION}


def _timed(seconds: dict[str, tuple[float, float]], name: str, work: Callable[[], float]) -> float:
    """Run one stage, note its wall and CPU time, and return what it returns."""
    wall, cpu = time.monotonic(), time.process_time()
    result = work()
    seconds[name] = (time.monotonic() - wall, time.process_time() - cpu)
    return result
