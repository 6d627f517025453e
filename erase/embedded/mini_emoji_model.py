"""The network of `mini-emoji`: a small but whole Stable Diffusion pipeline, in several sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel

from erase.core.rng import derive_seed
from erase.data.emoji import Vocabulary, words_of
from erase.embedded.tokenizer import build_tokenizer

MAX_TOKENS = 32  # tokens of a prompt, start and end included
GROUPS = 16  # of the normalisations; every width is a multiple


@dataclass(frozen=True)
class Design:
    """The shape of the network.

    Attributes:
        size: pixels a side.
        vae_widths: channels of the autoencoder's levels; each level but the last halves the side.
        latent_channels: channels of the latents.
        unet_widths: channels of the U-Net's levels; each has attention, and each but the last
            halves the side.
        unet_layers: residual blocks a level.
        heads: attention heads of the U-Net.
        text_width, text_layers: of the text encoder.
        prediction: what the U-Net predicts: `v_prediction` or `epsilon`.
    """

    size: int = 48
    vae_widths: tuple[int, ...] = (32, 64, 96)
    latent_channels: int = 6
    unet_widths: tuple[int, ...] = (64, 128)
    unet_layers: int = 1
    heads: int = 4
    text_width: int = 128
    text_layers: int = 2
    prediction: str = "v_prediction"

    @property
    def latent_size(self) -> int:
        """Side of the latents."""
        return self.size >> (len(self.vae_widths) - 1)


def build_pipeline(seed: int, design: Design, vocabulary: Vocabulary) -> StableDiffusionPipeline:
    """Build an untrained `mini-emoji` in float32 on the CPU.

    Args:
        seed: seed of the initial weights; the global random state is left as it was.
        design: the shape of the network.
        vocabulary: the tokenizer has one token for each of its words.
    """
    words = set().union(*(words_of(text) for text in vocabulary.texts()))
    tokenizer = build_tokenizer(sorted(words), MAX_TOKENS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("mini-emoji", "weights", seed))
        vae = AutoencoderKL(
            sample_size=design.size,
            block_out_channels=design.vae_widths,
            down_block_types=("DownEncoderBlock2D",) * len(design.vae_widths),
            up_block_types=("UpDecoderBlock2D",) * len(design.vae_widths),
            layers_per_block=1,
            latent_channels=design.latent_channels,
            norm_num_groups=GROUPS,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=design.text_width,
                intermediate_size=2 * design.text_width,
                projection_dim=design.text_width,
                num_hidden_layers=design.text_layers,
                num_attention_heads=4,
                max_position_embeddings=MAX_TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=design.latent_size,
            in_channels=design.latent_channels,
            out_channels=design.latent_channels,
            block_out_channels=design.unet_widths,
            down_block_types=("CrossAttnDownBlock2D",) * len(design.unet_widths),
            up_block_types=("CrossAttnUpBlock2D",) * len(design.unet_widths),
            layers_per_block=design.unet_layers,
            cross_attention_dim=design.text_width,
            attention_head_dim=design.heads,  # for this class of model: the number of heads
            norm_num_groups=GROUPS,
        )
    scheduler = DDIMScheduler(
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",  # the noisiest step shows next to nothing of the picture
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",  # rendering then starts from the noisiest step
        prediction_type=design.prediction,
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
