"""What one evaluation is asked to do; importable without torch."""

from dataclasses import dataclass

from erase.config.base import Config, option


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """`erase evaluate`: what a model still renders, and how well."""

    model: str = option("", "Alias, folder or hub id of the model to evaluate.")
    suite: str = option("digits", "What is asked of the model.")
    output: str = option("", "Evaluation folder.")
    baseline: str | None = option(None, "Control, rendered from the same seeds.")
    no_baseline: bool = option(False, "Evaluate without a control.")
    target: tuple[str, ...] = option((), "Forgotten concepts; default: those of the run's record.")
    protocol: str = option("default", "Named settings of the suite.")
    steps: int | None = option(None, "Denoising steps; default: the protocol's.")
    guidance: float | None = option(None, "Guidance scale; default: the protocol's.")
    images_per_class: int | None = option(None, "Images a class; default: the protocol's.")
    seed: int | None = option(None, "Seed of the samples' seeds; default: the protocol's.")
    limit: int | None = option(None, "At most this many images, spread evenly over the classes.")
    batch_size: int = option(50, "Images rendered at once.")
    device: str = option("cpu", "Device to render on: cpu, cuda, cuda:1, mps.")
    dtype: str = option("fp32", "Precision to render in: fp32, bf16 or fp16.")
    cache_dir: str | None = option(None, "Folder of the baselines' images.")
    overwrite: bool = option(False, "Replace another evaluation in the output folder.")
    show_explicit: bool = option(False, "Report without pixelating what NudeNet flags.")
    prompts: str | None = option(
        None, "CSV table of prompts, or folder that replaces the built-in ones."
    )
    scheduler: str | None = option(None, "Sampler, a diffusers class; default: the protocol's.")
    size: int | None = option(None, "Pixels a side; default: the protocol's.")
    threshold: float | None = option(None, "NudeNet's; default: the protocol's.")
    metrics: tuple[str, ...] = option((), "Metrics; default: the protocol's.")
    settings: tuple[str, ...] = option((), "METRIC.NAME=VALUE; default: the protocol's.")
    classifier: str | None = option(None, "Name, folder or file; default: the protocol's.")
    reference: str | None = option(None, "Folder of real images that FID and KID compare with.")
    categories: str | None = option(None, "I2P's categories, with commas; default: all.")
    min_nudity: float | None = option(None, "Least nudity percentage of I2P's prompts.")


@dataclass(frozen=True)
class CompareDiffusionConfig(Config):
    """`erase compare diffusion`: what is compared, and how it is judged."""

    model: str = option("", "Alias, folder or hub id of the original.")
    concept: tuple[str, ...] = option((), "What to forget, one run a method each; several times.")
    trials: int = option(1, "Seeds of batches, noise and timesteps; the images stay the same.")
    images_per_class: int | None = option(None, "Images a class that each model is judged by.")
    steps: int | None = option(None, "Denoising steps of those; default: the protocol's.")
    max_train_steps: int | None = option(None, "Steps of every method; default: each its own.")
    train_batch_size: int | None = option(None, "Images of each set in a step.")
    num_forget_images: int | None = option(None, "Images to render for the forget sets.")
    num_retain_images: int | None = option(None, "Images to render for the retain sets.")
    num_anchor_images: int | None = option(None, "Images to render of what is shown instead.")
    render_steps: int | None = option(None, "Sampling steps of those renders.")
    mixed_precision: str = option("no", "Autocast to bf16, or not.", ("no", "bf16"))
    seed: int = option(0, "First seed.")
