"""The network of `mini-sd`: a small but whole Stable Diffusion pipeline, with its words."""

from __future__ import annotations

import re

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel

from erase.core.rng import derive_seed
from erase.data.digits import CLASSES, IMAGE_SIZE, digit_captions
from erase.data.prompts import ClassList
from erase.embedded.tokenizer import build_tokenizer

TEXT_WIDTH = 64
LATENT_SIZE = 8
MAX_TOKENS = 16  # tokens of a prompt, start and end included


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
    tokenizer = build_tokenizer(caption_words(captions or digit_captions()), MAX_TOKENS)
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
