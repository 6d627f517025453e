"""`--lora-rank`: only adapters move, from the base exactly, and what is saved renders the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from click.testing import CliRunner
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from erase.artifacts.packaged import EMBEDDED
from erase.cli.main import main
from erase.config.concept import ConceptConfig
from erase.config.methods import build_method
from erase.core.meta import meta_gradient
from erase.core.params import snapshot
from erase.errors import InputError
from erase.models.loading import load_pipeline, resolve
from erase.models.lora import add_lora, fuse_lora, lora_targets, lora_weights
from erase.training.loop import UnlearningLoop, build_optimizer
from erase.training.trained import check_trained, trained_parameters
from tests.tiny import tiny_task, tiny_unet

SMALL = [
    *("--num-forget-images", "4", "--num-retain-images", "6", "--render-steps", "2"),
    *("--render-batch-size", "5", "--train-batch-size", "3", "--checkpointing-steps", "2"),
]
BASE = ["concept", "--model", "mini-sd", "--concept", "three", "--device", "cpu", *SMALL]


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def out(unet: Any) -> torch.Tensor:
    source = torch.Generator().manual_seed(3)
    x, states = torch.randn(2, 2, 4, 4, generator=source), torch.randn(2, 3, 8, generator=source)
    with torch.no_grad():
        shown = states.to(unet.dtype)
        return unet.eval()(x.to(unet.dtype), torch.tensor([3, 500]), shown).sample


def lora_task(rank: int = 2, unet: Any = None, **options: Any) -> Any:
    unet = unet if unet is not None else tiny_unet()
    task = tiny_task(unet=unet, **options)
    task.parameters = add_lora(unet, "full", rank=rank, seed=1)
    return task


@pytest.mark.parametrize(
    ("spec", "part"), [("xattn", "attn2"), ("selfattn", "attn1"), (r"to_k\.weight$", "to_k")]
)
def test_the_choice_decides_which_layers_are_adapted(spec: str, part: str) -> None:
    unet = tiny_unet()
    parameters = add_lora(unet, spec, rank=2)
    assert parameters
    assert all(part in name.split(".") for name in parameters)
    trained = {name for name, p in unet.named_parameters() if p.requires_grad}
    assert trained == set(parameters)


def test_full_adapts_every_linear_and_convolution_layer() -> None:
    unet = tiny_unet()
    layers = [m for m in unet.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    assert len(add_lora(unet, "full", rank=2)) == 2 * len(layers)


@pytest.mark.parametrize("spec", ["no_such_layer", r"norm1\.weight", r"to_q\.bias"])
def test_a_choice_without_layers_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match="matches no linear or convolution layer"):
        lora_targets(tiny_unet(), spec, 4)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="--lora-rank is 0"):
        lora_targets(tiny_unet(), "full", 0)
    with pytest.raises(InputError, match="lora_alpha is -1"):
        check_trained(tiny_unet(), ConceptConfig(lora_rank=2, lora_alpha=-1.0))
    with pytest.raises(InputError, match="without --lora-rank"):
        check_trained(tiny_unet(), ConceptConfig(lora_alpha=2.0))
    with pytest.raises(InputError, match="uce edits the weights themselves"):
        check_trained(tiny_unet(), ConceptConfig(method="uce", lora_rank=2))


def test_before_the_first_step_it_is_the_base_exactly() -> None:
    unet = tiny_unet()
    before, weights = out(unet), {k: v.clone() for k, v in unet.state_dict().items()}
    add_lora(unet, "full", rank=4, alpha=8.0)
    assert torch.equal(out(unet), before)
    fuse_lora(unet)
    after = unet.state_dict()
    assert list(after) == list(weights)
    assert all(torch.equal(after[name], weights[name]) for name in weights)


def test_the_start_is_drawn_from_the_seed_alone() -> None:
    def start(seed: int) -> list[torch.Tensor]:
        unet = tiny_unet()
        torch.manual_seed(seed * 7 + 1)  # the global state must not matter
        return snapshot(add_lora(unet, "xattn", rank=2, seed=seed // 2))

    first, same, other = start(0), start(1), start(2)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    state = torch.random.get_rng_state()
    add_lora(tiny_unet(dtype=torch.float32), "xattn", rank=2)
    torch.manual_seed(0)
    tiny_unet()
    expected = torch.random.get_rng_state()
    torch.manual_seed(0)
    add_lora(tiny_unet(), "xattn", rank=2)
    assert torch.equal(torch.random.get_rng_state(), expected)
    torch.random.set_rng_state(state)


def test_alpha_scales_the_adapter_and_the_file_needs_no_alpha() -> None:
    """What is saved adds (alpha / rank) B A with a scale of 1, as the fused weights show.

    In float64: fused and unfused add in another order, which float32 shows from 1e-5 on.
    """
    unet = tiny_unet(dtype=torch.float64)
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    parameters = add_lora(unet, "xattn", rank=2, alpha=6.0)
    with torch.no_grad():
        for p in parameters.values():
            p.normal_()
    saved, adapted = lora_weights(unet), out(unet)
    raw = {name: p.detach().clone() for name, p in parameters.items()}
    fuse_lora(unet)
    assert torch.allclose(out(unet), adapted, atol=1e-5)
    for name, (down, up) in saved.items():
        change = unet.state_dict()[f"{name}.weight"] - before[f"{name}.weight"]
        assert torch.allclose((up @ down).double(), change, atol=1e-5)
        assert torch.allclose(up.double(), 3 * raw[f"{name}.lora_B.default.weight"])


def test_the_meta_gradient_by_differences_agrees_with_double_backward() -> None:
    found = {}
    for mode in ("hvp", "exact", "first-order"):
        unet = tiny_unet(dtype=torch.float64)
        task = lora_task(unet=unet)
        for p in task.parameters.values():
            p.data = p.data.double()
        task.cache = tiny_task().cache
        with torch.no_grad():
            for index, p in enumerate(task.parameters.values()):
                noise = torch.Generator().manual_seed(index)
                p.add_(0.1 * torch.randn(p.shape, generator=noise, dtype=p.dtype))
        task.add_noise = lambda clean, noise, t: clean.double()
        losses = []
        for subset in ("retain", "forget"):
            batch = task.batches(subset, 0)[0]
            kind = "noise" if subset == "retain" else "clean"
            target = getattr(batch, kind).double()
            states = task.conditions["states"][batch.condition].double()

            def loss(
                b: Any = batch, y: Any = target, s: Any = states, model: Any = unet
            ) -> torch.Tensor:
                return ((model(b.noisy, b.timesteps, s).sample - y) ** 2).mean()

            losses.append(loss)
        meta_gradient(task.parameters, *losses, alpha=0.3, mode=mode)
        found[mode] = torch.cat([p.grad.flatten() for p in task.parameters.values()])
    correction = found["exact"] - found["first-order"]
    error = (found["hvp"] - found["exact"]).norm() / correction.norm()
    assert correction.norm() > 1e-3 * found["exact"].norm()
    assert error < 1e-3


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ema": {"ema_decay": 0.9},
    "bf16": {"mixed_precision": "bf16"},
    "all": {
        "gradient_checkpointing": True,
        "gradient_accumulation_steps": 2,
        "ema_decay": 0.9,
        "mixed_precision": "bf16",
    },
}


def trained(settings: dict[str, Any], rank: int | None) -> tuple[Any, dict[str, torch.Tensor]]:
    """Three steps of LUR with hvp on a tiny UNet; the model and what it trained."""
    config = ConceptConfig(
        settings={"alpha": 0.1, "forget_weight": 1.0, "meta_mode": "hvp"},
        max_train_steps=3,
        train_batch_size=2,
        learning_rate=1e-3,
        lr_scheduler="constant",
        **({"lora_rank": rank, **settings}),
    )
    from erase.runs.processes import Shard

    unet = tiny_unet()
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    accelerator = Accelerator(cpu=True, mixed_precision=config.mixed_precision)
    task = tiny_task(
        unet=unet,
        shard=Shard(2, config.gradient_accumulation_steps),
        precision="bf16" if config.mixed_precision == "bf16" else None,
        autocast=accelerator.autocast,
    )
    task.parameters = trained_parameters(unet, config)
    optimizer = build_optimizer(config, list(task.parameters.values()))
    method = build_method(config, task.family)
    UnlearningLoop(task, method, config, accelerator, optimizer, show=False).run()
    return unet, {name: p.detach().clone() for name, p in task.parameters.items()}


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_option_works_together_with_hvp(name: str, rank: int | None) -> None:
    """Every option trains, keeps float32 masters, and gives the same weights a second time."""
    unet, first = trained(SETTINGS[name], rank)
    assert all(p.dtype == torch.float32 for p in first.values())
    assert torch.isfinite(out(unet)).all()
    start = trained_parameters(tiny_unet(), ConceptConfig(lora_rank=rank))
    assert not all(torch.equal(first[k], start[k]) for k in first)
    if name == "all":
        _, again = trained(SETTINGS[name], rank)
        assert all(torch.equal(first[k], again[k]) for k in first)


@pytest.mark.parametrize("rank", [None, 2])
def test_checkpointing_and_accumulation_do_not_change_the_result(rank: int | None) -> None:
    _, plain = trained({}, rank)
    _, recomputed = trained({"gradient_checkpointing": True}, rank)
    assert all(torch.equal(plain[k], recomputed[k]) for k in plain)
    _, split = trained({"gradient_accumulation_steps": 2}, rank)
    assert not all(torch.equal(plain[k], split[k]) for k in plain)  # twice the images


def test_the_base_weights_never_move() -> None:
    unet, _ = trained(SETTINGS["all"], 2)
    base = tiny_unet().state_dict()
    for name, value in unet.state_dict().items():
        if ".lora_" not in name:
            assert torch.equal(value, base[name.replace(".base_layer", "")]), name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "run"
    invoke(
        *(*BASE, "--output", str(folder), "--max-train-steps", "4", "--lora-rank", "3"),
        *("--lora-alpha", "6", "--learning-rate", "1e-2"),
    )
    return folder


def test_the_adapter_renders_what_the_fused_pipeline_renders(run: Path) -> None:
    def image(pipeline: Any) -> torch.Tensor:
        pipeline.set_progress_bar_config(disable=True)
        return torch.from_numpy(
            pipeline(
                "a handwritten three",
                num_inference_steps=4,
                generator=torch.Generator().manual_seed(0),
                output_type="np",
            ).images
        )

    fused = image(DiffusionPipeline.from_pretrained(run, use_safetensors=True))
    base = load_pipeline(resolve("mini-sd"))
    untouched = image(base)
    base.load_lora_weights(run / "lora")
    assert (untouched - fused).abs().max() > 1e-2
    assert (image(base) - fused).abs().max() < 1e-4


def test_what_a_lora_run_leaves(run: Path) -> None:
    before = load_file(EMBEDDED["mini-sd"] / "unet" / "diffusion_pytorch_model.safetensors")
    after = load_file(run / "unet" / "diffusion_pytorch_model.safetensors")
    assert set(before) == set(after)
    record = json.loads((run / "record.json").read_text())
    for config in (run / "model_index.json", *run.glob("*/*config.json")):
        assert "name_or_path" not in config.read_text()  # a path of this machine
    with safe_open(run / "lora" / "pytorch_lora_weights.safetensors", framework="pt") as file:
        header = file.metadata()
        names = set(file.keys())
    assert header["erase.base_fingerprint"] == record["base_fingerprint"]
    assert header["erase.erased"] == "three"
    assert header["modelspec.license"] == "apache-2.0"  # of mini-sd's card
    assert all(name.startswith("unet.") for name in names)
    card = (run / "README.md").read_text()
    assert "adapter of rank 3" in card
    assert record["base_fingerprint"] in card


def test_a_resumed_lora_run_ends_with_the_same_bytes(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "resumed"
    invoke(
        *("concept", "--config", str(run / "config.yaml"), "--output", str(folder)),
        *("--device", "cpu", "--validation-steps", "0"),
    )
    for name in ("lora/pytorch_lora_weights.safetensors",):
        assert (folder / name).read_bytes() == (run / name).read_bytes()
    # As if the run had been killed after its second step.
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"status": "running"}))
    (folder / "lora" / "pytorch_lora_weights.safetensors").unlink()
    invoke(
        *("concept", "--config", str(run / "config.yaml"), "--output", str(folder)),
        *("--device", "cpu", "--resume-from-checkpoint", "checkpoint-2"),
    )
    for name in (
        "lora/pytorch_lora_weights.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
    ):
        assert (folder / name).read_bytes() == (run / name).read_bytes()
