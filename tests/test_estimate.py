"""The estimate of a dry run: against what PyTorch's allocator counts, and as settings change it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks.meta_step import peak_bytes
from erase.cli.main import main
from erase.config import ConceptConfig
from erase.core.live_bytes import peak_of, simulate
from erase.core.meta import meta_gradient
from erase.core.objectives import noise_mse
from erase.training.estimate import Estimate, estimate
from erase.training.plan import plan
from tests.tiny import WIDTH, tiny_unet

CPU = torch.device("cpu")


def step(mode: str, checkpointing: bool) -> Any:
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
def test_the_simulated_peak_is_the_allocators(mode: str, checkpointing: bool) -> None:
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


def test_values_that_are_read_are_one() -> None:
    with simulate():
        assert float(torch.zeros(3).sum()) == 1.0
        assert bool(torch.isfinite(torch.zeros(3)).all())


def estimated(**changes: Any) -> Estimate:
    settings: dict[str, Any] = {
        "model": "mini-sd",
        "concept": "three",
        "method": "lur-b",
        "train_batch_size": 16,
        "max_train_steps": 10,
        "num_forget_images": 20,
        "num_retain_images": 20,
    }
    config = ConceptConfig(**(settings | changes))
    return estimate(plan(config, device="cpu"), device="cpu")


@pytest.fixture(scope="module")
def usual() -> Estimate:
    return estimated()


@pytest.mark.parametrize(
    ("changes", "less"),
    [
        ({"train_batch_size": 8}, True),
        ({"gradient_checkpointing": True}, True),
        ({"lora_rank": 2}, True),
        ({"ema_decay": 0.9}, False),
        ({"method": "lur"}, False),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_the_training_phase_follows_the_settings(
    usual: Estimate, changes: dict[str, Any], less: bool
) -> None:
    assert (estimated(**changes).phases["train"] < usual.phases["train"]) is less


def test_disk_counts_what_a_run_leaves(usual: Estimate) -> None:
    values = 1_350_000  # of all parts of mini-sd, about
    assert usual.disk["model"] == pytest.approx(4 * values, rel=0.2)
    assert usual.disk["checkpoints"] == 0
    kept = estimated(checkpointing_steps=2, save_dtype="fp16")
    assert kept.disk["model"] == usual.disk["model"] / 2
    assert kept.disk["checkpoints"] % 3 == 0  # two are kept, and one is being written
    assert kept.disk["checkpoints"] > 2 * usual.disk["model"]
    assert usual.space == sum(usual.disk.values())


def test_a_dry_run_says_it_and_touches_nothing(tmp_path: Path) -> None:
    output = tmp_path / "run"
    result = CliRunner().invoke(
        main,
        [
            *("concept", "--model", "mini-sd", "--concept", "three", "--device", "cpu"),
            *("--train-batch-size", "2", "--output", str(output), "--dry-run"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "# memory: about" in result.output
    assert "# disk: about" in result.output
    assert list(tmp_path.iterdir()) == []
