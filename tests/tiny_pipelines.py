"""Tiny random pipelines of every family, as the installed libraries build the real ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    UMT5Config,
    UMT5EncoderModel,
)

from erase.data.captioned import CaptionedImages
from erase.embedded.mini_sd_model import MAX_TOKENS
from erase.embedded.tokenizer import build_tokenizer
from erase.models.class_conditional import ClassConditionalPipeline, build_pipeline

WORDS = ("a", "cat", "dog", "photo", "of", "red", "car")
SIZE = 16
WIDTH = 16


def text_config(tokenizer: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def vae(**changes: Any) -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=SIZE,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        **changes,
    )


def unet(**changes: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": SIZE // 2,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**(settings | changes))


def sd(prediction: str = "epsilon") -> StableDiffusionPipeline:
    """Stable Diffusion 1.x; with `v_prediction`, 2.x (whose projections are linear)."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(WORDS)
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=unet(use_linear_projection=prediction == "v_prediction"),
        scheduler=DDIMScheduler(prediction_type=prediction, clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(prediction: str = "epsilon") -> StableDiffusionXLPipeline:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(WORDS)
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer)),
        tokenizer=tokenizer,
        tokenizer_2=build_tokenizer(WORDS),
        unet=unet(
            cross_attention_dim=2 * WIDTH,
            use_linear_projection=True,
            transformer_layers_per_block=(1, 2),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        ),
        scheduler=EulerDiscreteScheduler(prediction_type=prediction),
        add_watermarker=False,
    )


def sd3() -> StableDiffusion3Pipeline:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(WORDS)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=SIZE // 2,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(text_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer)),
        tokenizer_2=build_tokenizer(WORDS),
        text_encoder_3=None,
        tokenizer_3=None,
    )


def auraflow() -> AuraFlowPipeline:
    """Of the family that docs/extending.md adds."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(WORDS)
    text = UMT5Config(
        vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=2, num_heads=2
    )
    return AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(text),
        vae=vae(),
        transformer=AuraFlowTransformer2DModel(
            sample_size=SIZE // 2,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            caption_projection_dim=16,
            pos_embed_max_size=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


def ddpm(prediction: str = "epsilon") -> ClassConditionalPipeline:
    pipeline = build_pipeline(
        ("cat", "dog", "red car"),
        size=SIZE,
        channels=8,
        multipliers=(1, 2),
        blocks=1,
        attention=8,
    )
    pipeline.scheduler.register_to_config(prediction_type=prediction)
    return pipeline


PIPELINES: dict[str, Callable[[], Any]] = {
    "sd1": sd,
    "sd1-sample": lambda: sd("sample"),
    "sd2-v": lambda: sd("v_prediction"),
    "sdxl": sdxl,
    "sdxl-v": lambda: sdxl("v_prediction"),
    "sdxl-sample": lambda: sdxl("sample"),
    "sd3": sd3,
    "auraflow": auraflow,
    "ddpm": ddpm,
    "ddpm-v": lambda: ddpm("v_prediction"),
    "ddpm-sample": lambda: ddpm("sample"),
}


def image_set(folder: Path, captions: tuple[str, ...], seed: int) -> CaptionedImages:
    """Images of noise with captions."""
    folder.mkdir(parents=True)
    draws = np.random.default_rng(seed)
    paths = []
    for index in range(len(captions)):
        path = folder / f"{index}.png"
        Image.fromarray(draws.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return CaptionedImages(tuple(paths), captions)
