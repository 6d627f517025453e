"""The class-conditional pipeline: guidance as in eq. 11, images on their own, names of classes."""

from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from erase.errors import InputError
from erase.models.class_conditional import ClassConditionalPipeline, build_pipeline
from erase.render.render import render
from erase.scoring.samples import Sample
from tests.tiny_pipelines import SIZE, ddpm


@pytest.fixture(scope="module")
def pipeline() -> ClassConditionalPipeline:
    made = ddpm()
    made.set_progress_bar_config(disable=True)
    made.unet.eval()
    with torch.no_grad():  # else the classes hardly differ
        made.unet.class_embedding.weight.mul_(20)
    return made


def images(pipeline: Any, names: list[str], seeds: list[int], **options: Any) -> Tensor:
    settings = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "pt"} | options
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    found: Tensor = pipeline(prompt=names, generator=generators, **settings).images
    return found


@pytest.fixture(scope="module")
def exact(pipeline: ClassConditionalPipeline) -> ClassConditionalPipeline:
    """The same model in float64, where what a processor rounds in another order is below 1e-8."""
    made = copy(pipeline)
    made.unet = deepcopy(pipeline.unet).double()
    return made


def test_guidance_is_equation_11(exact: ClassConditionalPipeline) -> None:
    """One DDIM step by hand: (1 − w)ε_∅ + wε_c with w = guidance_scale."""
    pipeline, weight = exact, 3.0
    source = torch.Generator().manual_seed(5)
    start = torch.randn(1, 3, SIZE, SIZE, generator=source, dtype=torch.float64)
    with torch.no_grad():
        without, with_class = (
            pipeline.unet(start, torch.tensor(999), class_labels=torch.tensor([label])).sample
            for label in (pipeline.null_class, 1)
        )
    noise = (1 - weight) * without + weight * with_class
    published = (1 + 2.0) * with_class - 2.0 * without  # w = 2 of the published DDPM code
    torch.testing.assert_close(noise, published)
    alpha_bar = pipeline.scheduler.alphas_cumprod[999]
    clean = ((start - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()).clamp(-1, 1)
    found = images(pipeline, ["dog"], [5], num_inference_steps=1)
    # The images are float32, which rounds at 6e-8; so are the schedule's ᾱ, times 1/√ᾱ = 158.
    torch.testing.assert_close(found, (clean / 2 + 0.5).float(), rtol=0, atol=2e-5)


def rounding(
    pipeline: ClassConditionalPipeline, exact: ClassConditionalPipeline, guidance: float, steps: int
) -> float:
    """How far two float32 images of one sample may lie apart, in [0, 1], on this processor.

    Kernels for another batch size add in another order. What the order can change in one answer
    ε of the network is at most 2e, where e is its distance from the float64 answer; e is measured.
    Guidance s adds |1 − s| + s answers. A step divides by √ᾱ what it takes off, so that its error
    in the image is √(1 − ᾱ)/√ᾱ · (2s − 1) · 2e; the clean image that a step predicts hands it on to
    the next step whole, so that they add up. Pixels span 2 in the model and 1 in the image.
    """
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(steps)
    x = torch.randn(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3, 3, 3, 0, 1, 1])
    bound = 0.0
    for t in scheduler.timesteps:
        with torch.no_grad():
            answer = pipeline.unet(x, t, class_labels=labels).sample
            error = answer - exact.unet(x.double(), t, class_labels=labels).sample
        alpha_bar = scheduler.alphas_cumprod[t]
        gain = float(((1 - alpha_bar) / alpha_bar).sqrt())
        bound += gain * (2 * guidance - 1) * 2 * float(error.abs().max()) / 2
    return bound


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_an_image_does_not_depend_on_its_batch(
    pipeline: ClassConditionalPipeline,
    exact: ClassConditionalPipeline,
    sampler: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not in float64; in float32 within its rounding, and other seeds lie far beyond that."""
    if sampler == "ddpm":
        scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        for made in (pipeline, exact):
            monkeypatch.setattr(made, "scheduler", scheduler)
    in_float32 = rounding(pipeline, exact, guidance=3.0, steps=3)
    assert in_float32 < 0.01
    for made, tolerance in ((exact, 1e-6), (pipeline, in_float32)):
        together = images(made, ["cat", "dog", "dog"], [1, 2, 3])
        each = (("cat", 1), ("dog", 2), ("dog", 3))
        alone = torch.cat([images(made, [name], [seed]) for name, seed in each])
        torch.testing.assert_close(together, alone, rtol=0, atol=tolerance)
        assert (together[1] - together[2]).abs().max() > 0.05


def test_without_guidance_the_null_class_is_not_asked(pipeline: ClassConditionalPipeline) -> None:
    seen: list[Tensor] = []
    hook = pipeline.unet.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["class_labels"]), with_kwargs=True
    )
    images(pipeline, ["cat", ""], [1, 2], guidance_scale=1.0, num_inference_steps=1)
    images(pipeline, ["cat"], [1], num_inference_steps=1, negative_prompt=["dog"])
    hook.remove()
    assert [labels.tolist() for labels in seen] == [[0, 3], [1, 0]]


def test_names_and_sentences(pipeline: ClassConditionalPipeline) -> None:
    known = pipeline.labels(["dog", "", "an image of a cat", "a red car", "red car"])
    assert known.tolist() == [1, 3, 0, 2, 2]
    for text, said in (("a cat and a dog", "several"), ("catalogue", "no class"), ("cow", "no")):
        with pytest.raises(InputError, match=said) as refused:
            pipeline.labels([text])
        assert "cat, dog, red car" in refused.value.remedy
    spelled = build_pipeline(
        ("one", "two"), size=8, channels=8, multipliers=(1, 1), blocks=1, synonyms={"2": "two"}
    )
    assert spelled.labels(["2", "the numeral 2", "one"]).tolist() == [1, 1, 0]


def test_what_does_not_fit_is_refused(pipeline: ClassConditionalPipeline) -> None:
    with pytest.raises(InputError, match="16 pixels a side"):
        images(pipeline, ["cat"], [1], height=32)
    with pytest.raises(InputError, match="4 class embeddings, and 2 classes"):
        ClassConditionalPipeline(pipeline.unet, pipeline.scheduler, {"0": "cat", "1": "dog"})
    with pytest.raises(InputError, match="cannot halve 30 pixels"):
        build_pipeline(("a", "b"), size=30)


def test_the_renderer_takes_it_as_any_other(
    pipeline: ClassConditionalPipeline, tmp_path: Path
) -> None:
    samples = [Sample(f"s{k}", name, k, guidance=2.0) for k, name in enumerate(["cat", "dog"])]
    files = render(pipeline, samples, tmp_path, steps=2, fingerprint="x", batch_size=3, size=SIZE)
    from PIL import Image

    shown = [np.asarray(Image.open(file)) for file in files]
    assert [pixels.shape for pixels in shown] == [(SIZE, SIZE, 3)] * 2
    assert not np.array_equal(shown[0], shown[1])


def test_half_precision_and_other_output(pipeline: ClassConditionalPipeline) -> None:
    picture: Any = images(pipeline, ["cat"], [0], output_type="pil")[0]
    assert picture.size == (SIZE, SIZE)
    array: Any = images(pipeline, ["cat"], [0], output_type="np")
    assert array.shape == (1, SIZE, SIZE, 3)
    assert 0 <= array.min() < array.max() <= 1
