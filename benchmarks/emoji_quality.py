"""How well mini-emoji draws what captions ask for: the numbers of its model card.

    python -m benchmarks.emoji_quality --images 20 --json quality.json

By default the model and the judges that ship; `--model` and `--judges` name folders of others. A
third of all pairs of object and style, drawn by seed, is rendered from captions that no training
uses. The bar: object and style each recognised in at least 90% of the pictures, both in 85%.

With `--data-dir ICONS` it also says how often the judges recognise the icons themselves after the
model's autoencoder: what a denoiser could reach at most.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from diffusers import StableDiffusionPipeline

from erase.artifacts.packaged import ASSETS
from erase.data.emoji import Vocabulary, read_vocabulary
from erase.data.icons import read_icons
from erase.embedded.mini_emoji_quality import GUIDANCE, STEPS, Judges, load, measure_quality
from erase.embedded.mini_emoji_stages import Pictures
from erase.embedded.stages import decode, encode

BARS = {"object": 0.90, "style": 0.90, "both": 0.85}


def reconstructed(
    pipeline: StableDiffusionPipeline,
    judges: Judges,
    vocabulary: Vocabulary,
    icons: Path,
    seed: int,
    device: str,
) -> dict[str, float]:
    """Shares of reconstructions of every icon on every colour whose object and style are seen."""
    size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    pictures = Pictures(read_icons(icons, vocabulary).to(device, size), vocabulary, seed)
    seen = decode(pipeline.vae, encode(pipeline.vae, pictures.all_once("quality")))
    things, styles, _ = pictures.all_labels()
    objects = judges.objects.predict(seen) == things
    right = judges.styles.predict(seen) == styles
    by_style = {
        style.name: float(right[styles == index].float().mean())
        for index, style in enumerate(vocabulary.styles)
    }
    return {
        "object": float(objects.float().mean()),
        "style": float(right.float().mean()),
    } | by_style


def main() -> None:
    """Measure, print, and exit with 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=ASSETS / "mini-emoji")
    parser.add_argument("--judges", type=Path, default=ASSETS, help="folder of both judges")
    parser.add_argument("--images", type=int, default=20, help="of each pair")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-dir", type=Path, help="icons to pass through the autoencoder")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    judges = Judges.load(
        arguments.judges / "emoji-objects", arguments.judges / "emoji-styles", arguments.device
    )
    pipeline, vocabulary = load(arguments.model, arguments.device), read_vocabulary()
    quality = measure_quality(
        pipeline,
        judges,
        vocabulary,
        images=arguments.images,
        steps=arguments.steps,
        guidance=arguments.guidance,
        seed=arguments.seed,
        device=arguments.device,
        quiet=False,
    )
    content = asdict(quality)
    if arguments.data_dir:
        content["reconstructions"] = reconstructed(
            pipeline, judges, vocabulary, arguments.data_dir, arguments.seed, arguments.device
        )
    text = json.dumps(content, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    missed = [name for name, bar in BARS.items() if getattr(quality, name) < bar]
    if missed:
        print(f"Below the bar: {', '.join(missed)}.")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
