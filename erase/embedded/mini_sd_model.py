"""The network of `mini-sd`: a small but whole Stable Diffusion pipeline, and its tokenizer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from erase.core.rng import derive_seed
from erase.data.digits import CLASSES, IMAGE_SIZE, digit_captions
from erase.data.prompts import ClassList

TEXT_WIDTH = 64
LATENT_SIZE = 8
MAX_TOKENS = 16  # tokens of a prompt, start and end included
START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


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


def build_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """Build a byte-level CLIP tokenizer that has one token for each of `words`.

    Any other text falls apart into shorter pieces, in the end into bytes, so no text fails.

    Args:
        words: Lower-case words of letters, or single digits; their order does not matter.
    """
    alphabet = _byte_alphabet()
    merges = _learn_merges(sorted(set(words)))
    tokens = [*alphabet, *(letter + _WORD_END for letter in alphabet)]
    tokens += [left + right for left, right in merges]
    tokens += [START, END]  # the end token has the highest id, as in CLIP
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
    )


def _byte_alphabet() -> list[str]:
    """Return the 256 printable stand-ins of bytes that byte-level BPE uses, by byte value.

    Printable Latin-1 characters stand for themselves; the other bytes take characters from 256 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def _learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges, most frequent pair first, until each word is one token.

    Encoding replays merges in the order they were learnt, so each word ends whole.
    """
    pieces = [[*word[:-1], word[-1] + _WORD_END] for word in words]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        pieces = [_merge(word, best) for word in pieces]
    return merges


def _merge(word: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Join each occurrence of `pair` in `word`, from the left."""
    joined: list[str] = []
    index = 0
    while index < len(word):
        if tuple(word[index : index + 2]) == pair:
            joined.append(pair[0] + pair[1])
            index += 2
        else:
            joined.append(word[index])
            index += 1
    return joined
