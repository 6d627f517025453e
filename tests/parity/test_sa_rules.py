"""SA (Selective Amnesia) against its source's published formula, written out as numbers here."""

from typing import Any

import pytest
import torch

from erase.core.rng import generator
from erase.errors import InputError
from erase.tasks.fisher import read_diagonal, tensors_key, trajectory_fisher
from tests.denoiser_world import in_double, method
from tests.parity.by_hand import Line, slope
from tests.tiny import tiny_cache, tiny_task


def test_sas_fisher_squares_the_gradient_summed_over_all_timesteps() -> None:
    model: Any = Line()
    task: Any = tiny_task(
        unet=model, cache=in_double(tiny_cache()), scheduler={"num_train_timesteps": 7}
    )
    expected = []
    for number, image in enumerate(task.ordered("retain", "fisher", size=1, count=4)):
        steps = task.noised_at(image, None, generator(task.seed, number, "fisher steps"))
        assert steps.timesteps.tolist() == list(range(7))
        total = sum(slope(model, steps.part(slice(t, t + 1), task.device)) for t in range(7))
        expected.append(torch.as_tensor(total).square())
    found = trajectory_fisher(task, "retain", 4)[0]
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_the_square_of_the_sum_is_estimated_from_few_timesteps() -> None:
    model: Any = Line()
    options = {"unet": model, "scheduler": {"num_train_timesteps": 7}}
    truth, estimates = [], []
    for seed in range(60):
        task: Any = tiny_task(cache=in_double(tiny_cache()), seed=seed, **options)
        truth.append(trajectory_fisher(task, "retain", 3)[0])
        estimates.append(trajectory_fisher(task, "retain", 3, timesteps=4)[0])
    assert float(torch.stack(estimates).mean() / torch.stack(truth).mean()) == pytest.approx(
        1.0, abs=0.15
    )


def test_sas_penalty_has_no_half() -> None:
    model: Any = Line()
    task: Any = tiny_task(unet=model, cache=in_double(tiny_cache()))
    settings = {"ewc": 7.0, "retain_weight": 0.0, "fisher_samples": 3, "fisher_timesteps": 5}
    made = method("text-to-image", "sa", **settings)
    made.prepare(task)
    diagonal = made._fisher[0]
    with torch.no_grad():
        model.w.add_(0.25)
    made.step(task, 0, None)
    surrogate = slope(model, task.batches("anchor", 0)[0])
    # d/dw λ F (w − w_0)² = 2 λ F (w − w_0)
    torch.testing.assert_close(model.w.grad, surrogate + 2 * 7.0 * diagonal * 0.25)


def test_sa_reuses_a_fisher_file_of_the_same_weights_only(tmp_path: Any) -> None:
    file = tmp_path / "fisher.safetensors"
    settings = {"fisher_samples": 2, "fisher_timesteps": 2, "fisher_file": str(file)}
    first, second = tiny_task(), tiny_task()
    for task in (first, second):
        made = method("text-to-image", "sa", **settings)
        made.prepare(task)
    read = read_diagonal(file, first.parameters, tensors_key(first.parameters))
    assert all(torch.equal(a, b) for a, b in zip(read, made._fisher, strict=True))
    with torch.no_grad():
        next(iter(first.parameters.values())).add_(1)
    with pytest.raises(InputError, match="other weights"):
        method("text-to-image", "sa", **settings).prepare(first)
    file.write_bytes(b"no tensors")
    with pytest.raises(InputError, match="not a readable Fisher"):
        method("text-to-image", "sa", **settings).prepare(second)
