"""Erase, evaluate and compare from Python: two minutes on two CPU cores.

    python examples/forget_a_digit.py [FOLDER]

The same as `erase concept`, `erase evaluate` and `erase compare diffusion`, in one script. An
editor that knows `# %%` runs it cell by cell. The settings are small, to see how it goes; without
them every method and suite takes its own (docs/diffusion.md).
"""

# %% Where everything goes
import sys
from pathlib import Path

import torch

import erase

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/python")

# %% Make the embedded model forget a digit. Every option of `erase concept` is an argument.
run = erase.concept(
    "mini-sd",
    "three",
    output=folder / "three",
    settings={"alpha": 0.01},
    max_train_steps=40,
    train_batch_size=16,
    learning_rate=3e-4,
    num_forget_images=32,
    num_retain_images=96,
)

# %% Measure it against the base model on the same seeds.
result = erase.evaluate(run, suite="digits", images_per_class=4)
for name, row in result.metrics["metrics"].items():
    print(f"{name}: {row['value']:.3f} (n = {row['n']})")
print(f"report: {result.report}")

# %% Render with it: a diffusers pipeline like any other.
pipeline = erase.load(run)
images = pipeline(
    ["a handwritten three", "a handwritten seven"],
    num_inference_steps=25,
    guidance_scale=1.0,
    generator=torch.Generator().manual_seed(0),
).images
for name, image in zip(("three", "seven"), images, strict=True):
    image.save(folder / f"{name}.png")

# %% Compare two methods on the same images and seeds.
rows = erase.compare(
    model="mini-sd",
    concept="three",
    methods="lur,uce",
    output=folder / "compare",
    settings={"lur.learning_rate": 3e-4},
    max_train_steps=40,
    train_batch_size=16,
    num_forget_images=16,
    num_retain_images=48,
    num_anchor_images=16,
    images_per_class=2,
)
for row in rows:
    print(f"{row['method']}: UA {row['ua']:.2f}, RA {row['ra']:.2f}")
