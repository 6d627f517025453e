import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline
from PIL import Image

from erase.embedded.mini_sd_model import build_pipeline
from erase.errors import InputError, RunError
from erase.evaluation.ahead import AheadDetector, while_rendering
from erase.judges.nudenet import Detector
from erase.render.render import render, render_fingerprint, rendered, use_scheduler
from erase.scoring.context import Detection
from erase.scoring.samples import Sample

SAMPLES = [Sample(f"s{i}", f"a handwritten {i}", 100 + i, guidance=3.0) for i in range(7)]


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    pipeline = build_pipeline(0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(autouse=True)
def _ancestral(pipeline: StableDiffusionPipeline) -> Iterator[None]:
    """Most tests draw noise at every step, which a shared generator would give away."""
    before = pipeline.scheduler
    use_scheduler(pipeline, "DDPMScheduler")
    assert isinstance(pipeline.scheduler, DDPMScheduler)
    yield
    pipeline.scheduler = before


def content(
    pipeline: Any, folder: Path, samples: list[Sample] | None = None, **options: Any
) -> dict[str, bytes]:
    given = {"steps": 2, "fingerprint": "f", "batch_size": 3, **options}
    render(pipeline, SAMPLES if samples is None else samples, folder, **given)
    return {file.stem: file.read_bytes() for file in sorted((folder / "images").glob("*.png"))}


def levels_apart(one: bytes, other: bytes) -> int:
    """Largest difference of two PNG files, of 255 levels."""
    pixels = [np.array(Image.open(io.BytesIO(png))).astype(int) for png in (one, other)]
    assert pixels[0].shape == pixels[1].shape == (32, 32, 3)
    return int(np.abs(pixels[0] - pixels[1]).max())


@pytest.fixture(scope="module")
def expected(
    pipeline: StableDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    before = pipeline.scheduler
    use_scheduler(pipeline, "DDPMScheduler")
    try:
        return content(pipeline, tmp_path_factory.mktemp("whole"))
    finally:
        pipeline.scheduler = before


def test_every_sample_has_its_own_image(expected: dict[str, bytes]) -> None:
    assert set(expected) == {sample.id for sample in SAMPLES}
    assert len(set(expected.values())) == len(SAMPLES)


def test_other_samples_in_the_batch_change_nothing(
    pipeline: Any, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """But for the place in the batch, which several threads share out differently."""
    backwards = content(pipeline, tmp_path / "a", SAMPLES[::-1])
    assert set(backwards) == set(expected)
    for name, image in backwards.items():
        assert levels_apart(image, expected[name]) <= 2
    alone = content(pipeline, tmp_path / "b", SAMPLES[4:5])
    assert set(alone) == {"s4"}
    assert levels_apart(alone["s4"], expected["s4"]) <= 2


@pytest.mark.parametrize("lost", [["s1"], ["s0", "s5", "s6"], [f"s{i}" for i in range(7)]])
def test_resuming_gives_the_same_images(
    pipeline: Any, tmp_path: Path, expected: dict[str, bytes], lost: list[str]
) -> None:
    content(pipeline, tmp_path)
    kept = tmp_path / "images" / "s2.png"
    age = kept.stat().st_mtime_ns
    for name in lost:
        (tmp_path / "images" / f"{name}.png").unlink()
    assert rendered(tmp_path, SAMPLES, "f") is None
    assert content(pipeline, tmp_path) == expected
    assert rendered(tmp_path, SAMPLES, "f") is not None
    if "s2" not in lost:
        assert kept.stat().st_mtime_ns == age


def test_a_broken_image_is_rendered_again(
    pipeline: Any, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    content(pipeline, tmp_path)
    file = tmp_path / "images" / "s3.png"
    file.write_bytes(file.read_bytes()[:-40])
    assert content(pipeline, tmp_path) == expected


def test_processes_share_the_work(
    pipeline: Any, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    first = content(pipeline, tmp_path, process_index=0, num_processes=2)
    assert set(first) == {"s0", "s1", "s2", "s6"}
    assert content(pipeline, tmp_path, process_index=1, num_processes=2) == expected


def test_another_batch_size_gives_nearly_the_same(
    pipeline: Any, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    for name, image in content(pipeline, tmp_path, batch_size=1).items():
        assert levels_apart(image, expected[name]) <= 2


def test_guidance_scales_are_grouped(pipeline: Any, tmp_path: Path) -> None:
    mixed = [Sample(f"m{i}", "a three", 7, guidance=(1.0, 3.0, 5.0)[i % 3]) for i in range(6)]
    images = content(pipeline, tmp_path, mixed)
    assert levels_apart(images["m0"], images["m3"]) <= 2
    assert levels_apart(images["m1"], images["m4"]) <= 2
    assert levels_apart(images["m0"], images["m1"]) > 2
    assert levels_apart(images["m1"], images["m2"]) > 2


def test_negative_and_empty_prompts(pipeline: Any, tmp_path: Path) -> None:
    samples = [
        Sample("plain", "a three", 7, guidance=3.0),
        Sample("negative", "a three", 7, guidance=3.0, negative_prompt="a four"),
        Sample("empty", "", 7, guidance=3.0),
        Sample("free", "", 7, guidance=1.0),
    ]
    images = content(pipeline, tmp_path, samples)
    assert images["plain"] != images["negative"]
    # an empty caption guided away from the empty caption is no guidance at all
    assert images["empty"] != images["plain"]
    assert len(images) == 4


def test_a_folder_holds_one_fingerprint(pipeline: Any, tmp_path: Path) -> None:
    content(pipeline, tmp_path)
    with pytest.raises(InputError) as caught:
        content(pipeline, tmp_path, fingerprint="g")
    assert "--overwrite" in caught.value.remedy
    few = content(pipeline, tmp_path, SAMPLES[:2], fingerprint="g", overwrite=True)
    assert set(few) == {"s0", "s1"}
    (tmp_path / "render.json").unlink()
    with pytest.raises(InputError):
        content(pipeline, tmp_path, SAMPLES[:2])


def test_progress_counts_images(pipeline: Any, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    content(pipeline, tmp_path, progress=lambda *count: seen.append(count))
    assert seen == [(0, 7), (3, 7), (6, 7), (7, 7)]


def test_bad_settings_are_refused(pipeline: Any, tmp_path: Path) -> None:
    bad: tuple[dict[str, Any], ...] = ({"batch_size": 0}, {"steps": 0})
    for options in bad:
        with pytest.raises(InputError):
            content(pipeline, tmp_path, **options)
    with pytest.raises(ValueError, match="unique"):
        content(pipeline, tmp_path, [SAMPLES[0], SAMPLES[0]])
    for name in ("NoSuchScheduler", "AutoencoderKL"):
        with pytest.raises(InputError):
            use_scheduler(pipeline, name)


def test_nan_is_an_error_that_names_the_sample(tmp_path: Path) -> None:
    broken = build_pipeline(0)
    broken.set_progress_bar_config(disable=True)
    with torch.no_grad():
        broken.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(RunError, match="a handwritten 0"):
        content(broken, tmp_path)
    assert not list((tmp_path / "images").glob("*.png"))


def test_scheduler_keeps_the_noise_schedule(pipeline: Any) -> None:
    use_scheduler(pipeline, "DDIMScheduler")
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    assert pipeline.scheduler.config.beta_end == 0.012
    use_scheduler(pipeline, None)
    assert isinstance(pipeline.scheduler, DDIMScheduler)


def test_fingerprint_sees_what_changes_images() -> None:
    base = render_fingerprint("w", SAMPLES, steps=2)
    copies = [replace(sample) for sample in SAMPLES]
    assert base == render_fingerprint("w", copies, steps=2, device="cpu")
    others = {
        render_fingerprint("v", SAMPLES, steps=2),
        render_fingerprint("w", SAMPLES[1:], steps=2),
        render_fingerprint("w", SAMPLES, steps=3),
        render_fingerprint("w", SAMPLES, steps=2, size=64),
        render_fingerprint("w", SAMPLES, steps=2, scheduler="DDIMScheduler"),
        render_fingerprint("w", SAMPLES, steps=2, device="cuda"),
        render_fingerprint("w", SAMPLES, steps=2, dtype=torch.bfloat16),
    }
    assert len(others | {base}) == 8


class Short:
    """A pipeline on a device whose memory holds so many images at once."""

    def __init__(self, pipeline: Any, most: int) -> None:
        self.pipeline, self.most = pipeline, most
        self.sizes: list[int] = []

    def to(self, device: str) -> None:
        self.pipeline.to(device)

    def __call__(self, **options: Any) -> Any:
        self.sizes.append(len(options["prompt"]))
        if len(options["prompt"]) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return self.pipeline(**options)


def test_short_memory_makes_smaller_pieces(
    pipeline: Any, tmp_path: Path, expected: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every image comes, within the tolerance; the lesson is kept, and said once a reduction."""
    short = Short(pipeline, 2)
    for name, image in content(short, tmp_path, batch_size=7).items():
        assert levels_apart(image, expected[name]) <= 2
    assert short.sizes == [7, 4, 2, 2, 2, 2]
    assert capsys.readouterr().err.count("Warning") == 2
    whole = Short(pipeline, 7)
    assert content(whole, tmp_path / "b") == expected
    assert whole.sizes == [3, 3, 3]


def test_no_memory_for_a_single_image_is_an_error(pipeline: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="single image"):
        content(Short(pipeline, 0), tmp_path)

    class Broken(Short):
        def __call__(self, **options: Any) -> Any:
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        content(Broken(pipeline, 0), tmp_path)


def test_each_image_is_looked_at_once_and_whole(pipeline: Any, tmp_path: Path) -> None:
    seen: list[str] = []

    def look(file: Path) -> None:
        with Image.open(file) as image:
            image.load()
        seen.append(file.stem)

    content(pipeline, tmp_path, each=look, process_index=0, num_processes=2)
    assert sorted(seen) == ["s0", "s1", "s2", "s6"]
    (tmp_path / "images" / "s1.png").unlink()
    seen.clear()
    content(pipeline, tmp_path, each=look)
    assert sorted(seen) == [f"s{i}" for i in range(7)], "also those that were there"


def test_what_looking_raises_ends_the_rendering(pipeline: Any, tmp_path: Path) -> None:
    def look(file: Path) -> None:
        raise RunError("no detector")

    with pytest.raises(RunError, match="no detector"):
        content(pipeline, tmp_path, each=look)


def test_half_precision_is_close_and_another_fingerprint(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    half = build_pipeline(0)
    half.set_progress_bar_config(disable=True)
    half.to(dtype=torch.bfloat16)
    use_scheduler(half, "DDPMScheduler")
    images = content(half, tmp_path)
    assert set(images) == set(expected)
    pixels = [
        np.array(Image.open(io.BytesIO(png))).astype(int)
        for name in expected
        for png in (images[name], expected[name])
    ]
    gaps = [np.abs(a - b).mean() for a, b in zip(pixels[::2], pixels[1::2], strict=True)]
    assert 0 < max(gaps) < 25


class Counting(AheadDetector):
    """A detector that finds its own name in every image, and counts."""

    def __init__(self) -> None:
        self._detections = {}
        self.calls: list[str] = []


def test_a_detector_remembers_what_it_saw_while_rendering(
    pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def detect(self: Any, paths: Any, progress: Any = None) -> list[list[Detection]]:
        self.calls += [path.stem for path in paths]
        if progress:
            progress(len(paths), len(paths))
        return [[Detection(path.stem, 1.0, (0, 0, 1, 1))] for path in paths]

    monkeypatch.setattr(Detector, "detect", detect)
    detector = Counting()
    assert while_rendering(detector, "cpu") is None
    assert while_rendering(None, "cuda") is None
    each = while_rendering(detector, "cuda")
    content(pipeline, tmp_path, SAMPLES[:4], each=each)
    counted: list[tuple[int, int]] = []
    files = [tmp_path / "images" / f"s{i}.png" for i in (5, 2, 0, 1, 3)]
    found = detector.detect(files, lambda *count: counted.append(count))
    assert [part[0].label for part in found] == [file.stem for file in files]
    assert sorted(detector.calls) == ["s0", "s1", "s2", "s3", "s5"], "each but once"
    assert counted == [(5, 5)]
