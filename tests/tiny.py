"""Tiny random models and data that several tests share."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel, UNet2DModel
from transformers import CLIPTextConfig, CLIPTextModel

from erase.core.params import select_parameters
from erase.embedded.tokenizer import build_tokenizer
from erase.runs.processes import Shard
from erase.tasks.class_conditional import ClassConditionalTask
from erase.tasks.latents import EncodedImages, LatentCache
from erase.tasks.live_text import LiveText
from erase.tasks.text_to_image import TextToImageTask, text_states

WIDTH = 8


def tiny_unet(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A UNet of some thousand parameters with self- and cross-attention."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "sample_size": 4,
        "in_channels": 2,
        "out_channels": 2,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    unet = UNet2DConditionModel(**(settings | changes))
    return unet if dtype == torch.float32 else unet.to(dtype)


def tiny_cache(seed: int = 0, forget: int = 5, retain: int = 7) -> LatentCache:
    """Random latents; captions 1 (forget), 2 (its anchor), 3 and 4 (retain), 0 the empty one."""
    source = torch.Generator().manual_seed(seed)

    def images(count: int, captions: tuple[int, ...]) -> EncodedImages:
        mean = torch.randn(count, 2, 4, 4, generator=source)
        rows = torch.tensor([captions[i % len(captions)] for i in range(count)])
        return EncodedImages(mean, torch.full_like(mean, 0.05), rows)

    anchors = torch.zeros(5, 2, dtype=torch.long)
    anchors[1] = 2
    concept = torch.zeros(5, 3, dtype=torch.bool)
    concept[1, 1] = True
    sets = {"forget": images(forget, (1,)), "retain": images(retain, (3, 4))}
    states = torch.randn(5, 3, WIDTH, generator=source)
    return LatentCache(
        sets=sets | {"anchor": images(forget, (2,))},
        conditions={"states": states, "concept": concept, "last": torch.tensor([0, 1, 1, 1, 1])},
        anchors=anchors,
        empty=0,
        prompts={"": 0, "a cat": 1, "a dog": 2, "a red car": 3, "a photo": 4},
    )


@cache
def _tiny_encoder() -> tuple[Any, Any]:
    tokenizer = build_tokenizer(("a", "cat", "dog", "red", "car", "photo"), 8)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tokenizer, CLIPTextModel(config).requires_grad_(False).eval()


def tiny_text() -> LiveText:
    """A text encoder of the width that `tiny_unet` reads, frozen."""
    tokenizer, encoder = _tiny_encoder()
    pipeline = SimpleNamespace(tokenizer=tokenizer, text_encoder=deepcopy(encoder))
    return LiveText(
        pipeline, lambda shown, prompts, _: text_states(shown, prompts), [pipeline.text_encoder], 4
    )


def tiny_task(
    *,
    shard: Shard | None = None,
    unet: Any = None,
    scheduler: Mapping[str, Any] | None = None,
    **options: Any,
) -> TextToImageTask:
    """A text-to-image task on a tiny UNet."""
    unet = unet if unet is not None else tiny_unet()
    unet.train()
    return TextToImageTask(
        model=unet,
        scheduler=DDPMScheduler(**(scheduler or {})),
        cache=options.pop("cache", None) or tiny_cache(),
        parameters=select_parameters(unet, "full"),
        shard=shard or Shard(batch_size=4),
        seed=options.pop("seed", 0),
        text=options.pop("text", None) or tiny_text(),
        **options,
    )


def tiny_class_task(
    *, shard: Shard | None = None, unet: Any = None, **options: Any
) -> ClassConditionalTask:
    """A class-conditional task on a tiny UNet: the sets of `tiny_cache`, class 0 as the null."""
    if unet is None:
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=4,
            in_channels=2,
            out_channels=2,
            block_out_channels=(8, 8),
            layers_per_block=1,
            attention_head_dim=4,
            norm_num_groups=4,
            down_block_types=("AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D"),
            num_class_embeds=5,
        )
    unet.train()
    cache = options.pop("cache", None) or tiny_cache()
    return ClassConditionalTask(
        model=unet,
        scheduler=DDPMScheduler(),
        cache=replace(cache, conditions={"labels": torch.arange(5)}),
        parameters=select_parameters(unet, "full"),
        shard=shard or Shard(batch_size=4),
        seed=options.pop("seed", 0),
        **options,
    )
