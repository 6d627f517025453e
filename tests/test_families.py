"""Contracts of every model family, on tiny random pipelines; the truth is diffusers' own code."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from erase.core.meta import meta_gradient
from erase.core.params import select_parameters
from erase.data.captioned import load_image
from erase.errors import InputError
from erase.files import read_json, write_json
from erase.models.loading import ModelSource, load_pipeline, resolve, save_pipeline
from erase.models.weights import part_variant
from erase.runs.processes import Shard
from erase.tasks.denoiser import DenoiserTask
from erase.tasks.families import FAMILIES, family_of
from erase.tasks.family import Family
from erase.tasks.latents import LatentCache
from tests.throwaway import load_family
from tests.tiny_pipelines import PIPELINES, SIZE, image_set

ARCHITECTURES = ("sd1", "sd2-v", "sdxl", "sd3", "ddpm", "auraflow")
CPU = torch.device("cpu")
# diffusers' Euler scheduler (SDXL's own) and NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@dataclass(frozen=True)
class World:
    """A tiny pipeline on disk, with its encoded forget ("cat") and retain ("dog", "") sets."""

    name: str
    source: ModelSource
    family: Family
    cache: LatentCache

    def task(self, *, double: bool = False, **options: Any) -> DenoiserTask:
        pipeline = load_pipeline(self.source, **self.family.unloaded())
        network = getattr(pipeline, self.family.component)
        network.train()
        options = dict[str, Any](shard=Shard(4), seed=0) | options
        task = self.family.task(
            model=network.double() if double else network,
            scheduler=self.family.training_scheduler(pipeline),
            cache=self.cache,
            parameters=select_parameters(network, "full"),
            **options,
        )
        if double:
            task.conditions = {n: _doubled(c) for n, c in task.conditions.items()}
            draw = task.draw
            task.draw = lambda *a: _double(draw(*a))  # type: ignore[method-assign]
        return task


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _double(batch: Any) -> Any:
    named = {name: getattr(batch, name) for name in ("clean", "noise", "noisy", "timesteps")}
    return replace(batch, **{name: _doubled(tensor) for name, tensor in named.items()})


@pytest.fixture(scope="module", params=ARCHITECTURES)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "auraflow":
            example = load_family("erase/tasks/auraflow.py")
            patch.setitem(FAMILIES, example.pipeline, example)
        yield make_world(request.param, tmp_path_factory.mktemp(request.param))


def make_world(name: str, folder: Path) -> World:
    save_pipeline(PIPELINES[name](), folder / "model", torch.float32)
    source = resolve(str(folder / "model"))
    family = family_of(source)
    sets = {
        "forget": image_set(folder / "forget", ("cat",) * 3, 0),
        "retain": image_set(folder / "retain", ("dog", "", "dog"), 1),
    }
    cache = family.encode(
        load_pipeline(source), sets, {"cat": ["dog"]}, size=source.resolution(), device=CPU
    )
    return World(name, source, family, cache)


def test_every_family_is_under_these_contracts() -> None:
    assert {type(PIPELINES[name]()).__name__ for name in ARCHITECTURES} >= set(FAMILIES)


def test_losses_repeat_bit_for_bit(world: World) -> None:
    task = world.task()
    for step in (0, 3):
        first, again = task.losses(step), task.losses(step)
        pairs = zip(first.retain, again.retain, strict=True)
        for one, two in (*pairs, *zip(first.forget, again.forget, strict=True)):
            assert one() == one() == two()
    assert task.losses(0).retain[0]() != task.losses(3).retain[0]()
    assert task.losses(0).forget[0]() > 0


def test_micro_batches_equal_the_joint_batch(world: World) -> None:
    def gradient(shard: Shard) -> list[Tensor]:
        task = world.task(double=True, shard=shard)
        task.model.eval()  # dropout masks belong to a micro-batch
        losses = task.losses(0)
        meta_gradient(task.parameters, losses.retain, losses.forget, alpha=0.01, mode="joint")
        return [p.grad.clone() for p in task.parameters.values() if p.grad is not None]

    for joint, piece in zip(gradient(Shard(4)), gradient(Shard(2, micro_batches=2)), strict=True):
        torch.testing.assert_close(piece, joint, rtol=1e-8, atol=1e-11)


def kinds(world: World) -> Iterator[str]:
    flow = world.family.scheduler is FlowMatchEulerDiscreteScheduler
    yield from ("flow",) if flow else ("epsilon", "v_prediction", "sample")


def test_a_perfect_denoiser_has_no_loss_and_its_answer_leads_to_the_image(world: World) -> None:
    """The target, taken back through diffusers' own scheduler, gives the clean sample."""
    for kind in kinds(world):
        task = world.task(condition_dropout=0.0)
        if kind != "flow":
            task.scheduler.register_to_config(prediction_type=kind)
        batch = task.draw("retain", 0)
        target = task.target(batch)
        task.forward = lambda *_, answer=target: answer  # type: ignore[method-assign,misc]
        assert task.denoising(batch).abs().max() == 0
        for row, timestep in enumerate(batch.timesteps):
            sample, answer = batch.noisy[row : row + 1], target[row : row + 1]
            if kind == "flow":
                found = sample - timestep / 1000 * answer  # Euler from σ to 0
            else:
                config = {**task.scheduler.config, "clip_sample": False}
                step = DDPMScheduler.from_config(config).step(answer, int(timestep), sample)
                found = step.pred_original_sample
            # At the noisiest steps ε is divided by an α of 0.006.
            torch.testing.assert_close(found, batch.clean[row : row + 1], rtol=0, atol=2e-4)


def test_the_network_is_shown_what_the_pipeline_shows_it(world: World) -> None:
    """Rows of the cache against the arguments of the pipeline's own call, empty prompt included."""
    pipeline, task = load_pipeline(world.source), world.task()
    seen: list[dict[str, Any]] = []
    network = getattr(pipeline, world.family.component)
    hook = network.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    options = {"num_inference_steps": 1, "guidance_scale": 3.0, "output_type": "np"}
    options |= {"height": SIZE, "width": SIZE}  # AuraFlow's own default is 1024, whatever the model
    pipeline(prompt=["cat"], generator=[torch.Generator().manual_seed(0)], **options)
    hook.remove()
    row = task.cache.sets["forget"].condition[0]
    shown = task.arguments(torch.tensor([task.empty, int(row)]))
    for name, value in _flat(shown).items():
        torch.testing.assert_close(_flat(seen[0])[name], value, rtol=1e-5, atol=1e-5)


def _flat(arguments: dict[str, Any]) -> dict[str, Tensor]:
    inner = arguments.get("added_cond_kwargs") or {}
    flat = {**{n: v for n, v in arguments.items() if isinstance(v, Tensor)}, **inner}
    return {name: value.to(torch.float32) for name, value in flat.items()}


def test_latents_decode_to_what_the_vae_makes_of_the_image(world: World) -> None:
    images = world.cache.sets["forget"]
    if world.name == "ddpm":
        assert float(images.mean.min()) >= -1
        assert float(images.mean.max()) <= 1
        assert float(images.mean.std()) > 0.4  # noise over the whole range
        return
    vae = load_pipeline(world.source).vae
    latents = images.mean / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    folder = world.source.path.parent / "forget"
    pixels = torch.stack([load_image(folder / f"{index}.png", SIZE) for index in range(3)])
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
    torch.testing.assert_close(latents, posterior.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(images.std / vae.config.scaling_factor, posterior.std)


def test_save_and_load_render_the_same(world: World, tmp_path: Path) -> None:
    first = load_pipeline(world.source)
    before = _render(first)
    save_pipeline(first, tmp_path, torch.float32)
    again = load_pipeline(resolve(str(tmp_path)))
    assert torch.equal(before, _render(again))
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} <= {
        *(".safetensors", ".json", ".txt"),
    }


def _render(pipeline: Any) -> Tensor:
    images = pipeline(
        prompt=["cat", "dog"],
        num_inference_steps=2,
        guidance_scale=2.0,
        height=SIZE,
        width=SIZE,
        generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
        output_type="np",
    ).images
    assert images.shape == (2, SIZE, SIZE, 3)
    return torch.from_numpy(images)


def test_half_precision_files_marked_as_such_load_in_float32(world: World, tmp_path: Path) -> None:
    pipeline = load_pipeline(world.source)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.half()
    pipeline.save_pretrained(tmp_path, variant="fp16")
    source = resolve(str(tmp_path))
    networks = [name for name, part in pipeline.components.items() if hasattr(part, "parameters")]
    assert {part_variant(tmp_path / name) for name in networks} == {"fp16"}
    loaded = load_pipeline(source)
    for name, part in loaded.components.items():
        if isinstance(part, torch.nn.Module):
            want = getattr(pipeline, name).state_dict()
            for key, tensor in part.state_dict().items():
                assert tensor.dtype in (torch.float32, torch.int64), f"{name}.{key}"
                torch.testing.assert_close(tensor, want[key].to(tensor.dtype), rtol=0, atol=0)
    assert {part_variant(world.source.path / name) for name in networks} == {None}


def test_an_unknown_pipeline_is_refused_naming_the_known_ones(tmp_path: Path) -> None:
    write_json(tmp_path / "model_index.json", {"_class_name": "FluxPipeline"})
    with pytest.raises(InputError, match="FluxPipeline") as refused:
        family_of(resolve(str(tmp_path)))
    assert all(name in refused.value.remedy for name in FAMILIES)


def test_the_index_names_the_classes_of_a_ddpm(world: World) -> None:
    named = read_json(world.source.path / "model_index.json").get("id2label")
    expected = {"0": "cat", "1": "dog", "2": "red car"} if world.name == "ddpm" else None
    assert named == expected
