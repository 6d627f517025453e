"""The estimate of a dry run: against what PyTorch's allocator counts, and as settings change it."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Module

from benchmarks.meta_step import peak_bytes
from erase.cli.main import main
from erase.config.concept import ConceptConfig
from erase.core.meta import Mode, meta_gradient
from erase.core.objectives import noise_mse
from erase.models import configs
from erase.models.known import FOLDER
from erase.models.loading import save_pipeline
from erase.models.lora import add_lora
from erase.tasks.sd3 import text_states
from erase.training import estimate as estimates
from erase.training import live_bytes, sizes
from erase.training.estimate import Estimate, estimate
from erase.training.live_bytes import PIECE, peak_of, simulate
from erase.training.plan import plan
from tests import tiny_pipelines
from tests.tiny import WIDTH, tiny_unet

CPU = torch.device("cpu")


def step(mode: Mode, checkpointing: bool) -> Any:
    """A meta step on a small UNet, large enough in the batch for activations to weigh."""
    unet = tiny_unet(sample_size=16)
    unet.train()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    x, states = torch.randn(16, 2, 16, 16), torch.randn(16, 3, WIDTH)
    noise, steps = torch.randn(16, 2, 16, 16), torch.zeros(16, dtype=torch.long)

    def loss() -> Any:
        return noise_mse(unet(x, steps, states).sample, noise).mean()

    return lambda: meta_gradient(
        list(unet.parameters()), loss, loss, alpha=0.1, forget_weight=1e3, mode=mode
    )


@pytest.mark.parametrize(
    ("mode", "checkpointing"), [("joint", False), ("hvp", False), ("hvp", True)]
)
def test_the_simulated_peak_is_the_allocators(mode: Mode, checkpointing: bool) -> None:
    real = peak_bytes(step(mode, checkpointing), CPU)
    with simulate() as counted:
        work = step(mode, checkpointing)
        held = counted.live
        found = peak_of(counted, work) - held
    assert found == pytest.approx(real, rel=0.1)


def test_nothing_is_counted_when_all_is_freed() -> None:
    with simulate() as counted:
        tensor = torch.ones(1000)
        assert counted.live == 4000
        view = tensor.view(10, 100)
        assert counted.live == 4000
        del tensor
        assert counted.live == 4000
        del view
        assert counted.live == 0
        assert counted.peak == 4000


def test_churn_is_what_comes_and_goes_in_pieces_that_the_heap_serves() -> None:
    with simulate() as counted:
        held = torch.ones(1000)
        peak_of(counted, lambda: (torch.ones(500), torch.ones(PIECE)))
        assert counted.churn == 2000
        assert counted.live == held.nbytes


def test_values_that_are_read_are_one() -> None:
    with simulate():
        assert float(torch.zeros(3).sum()) == 1.0
        assert bool(torch.isfinite(torch.zeros(3)).all())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion as a folder."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_pipeline(tiny_pipelines.sd(), folder, torch.float32)
    return folder


def estimated(model: Path, **changes: Any) -> Estimate:
    settings: dict[str, Any] = {
        "model": str(model),
        "concept": "car",
        "method": "lur-b",
        "train_batch_size": 32,
        "max_train_steps": 10,
        "num_forget_images": 20,
        "num_retain_images": 20,
    }
    config = ConceptConfig(**(settings | changes))
    return estimate(plan(config, device="cpu"), device="cpu")


@pytest.fixture(scope="module")
def usual(model: Path) -> Estimate:
    return estimated(model)


@pytest.mark.parametrize(
    ("changes", "less"),
    [
        ({"train_batch_size": 8}, True),
        ({"gradient_checkpointing": True}, True),
        ({"trainable": "xattn"}, True),
        ({"lora_rank": 2}, True),
        ({"ema_decay": 0.9}, False),
        ({"method": "lur"}, False),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_the_training_phase_follows_the_settings(
    usual: Estimate, model: Path, changes: dict[str, Any], less: bool
) -> None:
    assert (estimated(model, **changes).phases["train"] < usual.phases["train"]) is less


def test_the_allocators_share_is_that_of_the_settings(usual: Estimate, model: Path) -> None:
    assert 0 < usual.slack < usual.memory - usual.base
    assert usual.memory == usual.base + max(usual.phases.values()) + usual.slack
    assert estimated(model, lora_rank=2).slack > usual.slack
    assert estimated(model, gradient_checkpointing=True).slack > usual.slack


def test_adapters_are_on_disk_and_alone_in_checkpoints(model: Path) -> None:
    found = estimated(model, lora_rank=2, checkpointing_steps=10)
    trained = sum(p.numel() for p in add_lora(tiny_pipelines.sd().unet, "full", rank=2).values())
    assert found.disk["adapter"] == 4 * trained
    assert found.disk["checkpoints"] == 12 * trained


def test_a_simulated_model_can_be_copied() -> None:
    with simulate() as counted:
        layer = torch.nn.Linear(8, 4)
        layer.tied = layer.weight
        before = counted.live
        copy = deepcopy(layer)
        assert counted.live == 2 * before
        assert copy.tied is copy.weight is not layer.weight
        assert isinstance(copy.weight, torch.nn.Parameter)
        assert copy.weight.requires_grad
        # PyTorch's own deepcopy copies the mode too, and what is freed afterwards is not its own.
        modes = [getattr(weight, "fake_mode") for weight in (copy.weight, layer.weight)]  # noqa: B009
        assert modes[0] is modes[1]


def test_a_method_that_copies_the_model_has_an_estimate(model: Path) -> None:
    found, plain = estimated(model, method="esd"), estimated(model, method="lur-b")
    assert found.phases["save"] > plain.phases["save"]  # the original is held to the end


def test_a_closed_form_has_an_estimate(model: Path) -> None:
    assert estimated(model, method="uce").phases["train"] > 0


def test_sd3s_conditions_are_its_pipelines(tmp_path: Path) -> None:
    pipeline = tiny_pipelines.sd3()
    save_pipeline(pipeline, tmp_path, torch.float32)
    settings = ConceptConfig(model=str(tmp_path), concept=("car",), method="lur-b")
    planned = plan(settings, device="cpu")
    real = text_states(pipeline, ["a cat", "a dog"])
    empty = planned.family.conditions(planned.source.path, 2)
    assert {n: t.shape for n, t in empty.items()} == {n: t.shape for n, t in real.items()}
    shown = estimated(tmp_path)
    values = sum(p.numel() for p in pipeline.transformer.parameters())
    # Weights, gradients and AdamW's two states.
    assert shown.phases["train"] > 16 * values


def test_disk_counts_what_a_run_leaves(usual: Estimate, model: Path) -> None:
    parts = [p for p in tiny_pipelines.sd().components.values() if isinstance(p, torch.nn.Module)]
    values = sum(p.numel() for part in parts for p in part.parameters())
    assert usual.disk["model"] == 4 * values
    assert usual.disk["checkpoints"] == 0
    kept = estimated(model, checkpointing_steps=2, save_dtype="fp16")
    assert kept.disk["model"] == 2 * values
    trained = sum(p.numel() for p in tiny_pipelines.sd().unet.parameters())
    assert kept.disk["checkpoints"] == 3 * 12 * trained  # two are kept, and one is being written
    assert usual.space == sum(usual.disk.values())


def test_a_dry_run_says_it_and_touches_nothing(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    result = CliRunner().invoke(
        main,
        [
            *("concept", "--model", str(model), "--concept", "car", "--device", "cpu"),
            *("--train-batch-size", "2", "--output", str(output), "--dry-run"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "# memory: about" in result.output
    assert "# disk: about" in result.output
    assert list(tmp_path.iterdir()) == []


def test_eight_bit_states_take_a_quarter(model: Path) -> None:
    config = ConceptConfig(
        model=str(model),
        concept=("car",),
        method="lur-b",
        trainable="full",
        train_batch_size=1,
        num_forget_images=2,
        num_retain_images=2,
        ema_decay=None,
    )
    planned = plan(config, device="cpu")
    # The plan refuses the option where bitsandbytes is missing; the estimate needs no such library.
    eight = replace(planned, config=planned.config.replace(use_8bit_adam=True))
    trained = sum(p.numel() for p in tiny_pipelines.sd().unet.parameters())
    phases = [estimate(one, device="cpu").phases["train"] for one in (planned, eight)]
    assert phases[0] - phases[1] == pytest.approx((8 - 2.03) * trained, rel=0.01)


def test_what_is_not_simulated_changes_no_number(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operations in place make no tensor; more than a tenth of all calls."""
    calls = 0
    dispatch = FakeTensorMode.dispatch

    def counted(self: Any, *given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        return dispatch(self, *given, **more)

    monkeypatch.setattr(FakeTensorMode, "dispatch", counted)
    monkeypatch.setattr(estimates, "_is_small", lambda _: False)
    short, calls_short = estimated(model), calls
    monkeypatch.setattr(live_bytes, "IN_PLACE", frozenset())
    whole, calls_whole = estimated(model), calls - calls_short
    assert (short.phases, short.slack, short.disk) == (whole.phases, whole.slack, whole.disk)
    assert calls_short < 0.9 * calls_whole, (calls_short, calls_whole)


def test_a_network_without_weights_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def build(part: Path) -> Module | None:
        built.append(part.name)
        return configs.part_skeleton(part)

    monkeypatch.setattr(sizes, "part_skeleton", build)
    sizes._network_size.cache_clear()
    assert {sizes.weight_count(FOLDER / "sd-1" / "text_encoder") for _ in range(3)} == {123_060_480}
    assert built == ["text_encoder"]
