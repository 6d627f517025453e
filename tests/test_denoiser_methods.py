"""Denoiser methods by themselves: what they refuse, their settings, and each against its source."""

from typing import Any

import pytest
import torch

from erase.config.concept import ConceptConfig
from erase.config.families import methods_for
from erase.config.layers import Layer, fill_run
from erase.config.methods import LENGTH, find_method, recipe_for, run_defaults
from erase.core.attention import cross_attentions, probabilities
from erase.core.params import select_parameters
from erase.errors import InputError
from erase.methods import erasediff
from erase.runs.processes import Shard
from erase.tasks.denoising import retain_gradient, summed_gradient, two_gradients
from erase.tasks.fisher import fisher
from tests.denoiser_world import config, in_double, in_float64, method, train, weights
from tests.parity.by_hand import Line
from tests.tiny import WIDTH, tiny_cache, tiny_class_task, tiny_task, tiny_unet


def test_a_method_of_another_family_is_refused_with_those_there_are() -> None:
    for family, name in (("class-conditional", "uce"), ("text-to-image", "retrain")):
        with pytest.raises(InputError, match="not defined") as refused:
            find_method(name, family)
        assert "lur" in refused.value.remedy
        assert name not in refused.value.remedy
    assert {"be", "iu"}.isdisjoint(methods_for("text-to-image"))
    assert set(methods_for("text-to-image")) >= {"salun", "shs", "esd", "sa", "fmn", "uce", "ca"}
    assert "retrain" in methods_for("class-conditional")


def test_a_model_without_cross_attention_is_refused_before_anything_is_done() -> None:
    for name in ("fmn", "uce"):
        with pytest.raises(InputError, match="no cross-attention"):
            method("text-to-image", name).check(tiny_class_task().model, "text-to-image")
    with pytest.raises(InputError, match="matches no"):
        method("text-to-image", "shs", layers="nothing").check(tiny_unet(), "text-to-image")


def test_set_values_are_read_as_their_defaults_are() -> None:
    spec = find_method("sfr-on", "text-to-image")
    given = {"fast_step": "1e-3", "fisher_samples": "8", "decay": "cosine"}
    assert spec.typed(given) == {"fast_step": 1e-3, "fisher_samples": 8, "decay": "cosine"}
    for name, value in (("fisher_samples", "2.5"), ("fast_step", "fast"), ("decay", "3")):
        with pytest.raises(InputError, match=name):
            spec.typed({name: value})
    with pytest.raises(InputError, match="no setting 'masks'"):
        spec.typed({"masks": "1"})


def test_user_over_method_over_nothing() -> None:
    filled = config("text-to-image", "esd", settings={"variant": "x"})
    assert (filled.trainable, filled.learning_rate) == ("xattn", 3e-3)
    assert config("text-to-image", "esd", trainable="full").trainable == "full"
    spec = find_method("lur", "text-to-image")
    layers = [Layer("method", run_defaults(spec, "text-to-image", 32))]
    lur = fill_run(ConceptConfig(method="lur", settings={"alpha": "0.1"}), spec, layers)
    assert (lur.settings["alpha"], lur.settings["forget_weight"]) == (0.1, 0.5)


@pytest.mark.parametrize("name", methods_for("class-conditional"))
def test_a_class_conditional_toy_is_trained_as_toys_are_in_the_sources_form(name: str) -> None:
    spec = find_method(name, "class-conditional")
    source, toy = (run_defaults(spec, "class-conditional", side) for side in (32, 8))
    own = recipe_for(spec, "class-conditional-small")
    if own is not None:
        assert toy == own.values
        assert toy.get("max_train_steps", 0) < source["max_train_steps"]
    else:
        assert toy == {key: value for key, value in source.items() if key not in LENGTH}


# What is particular to one method.


def test_salun_masks_under_adam_and_takes_the_guided_prediction_on_request() -> None:
    task, made = tiny_task(), method("text-to-image", "salun", mask=0.3)
    before = weights(task)
    train(task, made, 4)
    moved = torch.cat([(before[key] != p).flatten() for key, p in weights(task).items()])
    assert 0 < float(moved.float().mean()) <= 0.3 + 1e-4
    marks = []
    for scale in (1.0, 7.5):
        task, made = tiny_task(), method("text-to-image", "salun", mask_guidance=scale)
        made.prepare(task)
        marks.append(torch.cat([m.flatten() for m in made._mask._moves]))
    assert not torch.equal(*marks)


def test_saluns_mask_is_of_the_summed_gradient_over_every_forget_image() -> None:
    task = in_float64("text-to-image", Shard(batch_size=2))
    whole = in_float64("text-to-image", Shard(batch_size=64))
    sums = [summed_gradient(t, "forget", "mask", t.denoising) for t in (task, whole)]
    for one, other in zip(*sums, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert sum(1 for _ in task.ordered("forget", "mask")) == 3  # five images by two


def test_shs_trims_in_the_layers_it_is_told_and_no_others() -> None:
    task, made = tiny_task(), method("text-to-image", "shs", sparsity=0.8, layers="attn2")
    before = weights(task)
    made.prepare(task)
    changed = {key: before[key] != p for key, p in weights(task).items()}
    assert any(mask.any() for mask in changed.values())
    assert all("attn2" in key for key, mask in changed.items() if mask.any())
    task.parameters = select_parameters(task.model, "conv")
    with pytest.raises(InputError, match="not trained"):
        method("text-to-image", "shs", layers="attn2").prepare(task)


@pytest.mark.parametrize("start", ["condition", "empty"])
def test_esds_target_comes_from_the_frozen_original(start: str) -> None:
    task, made = tiny_task(), method("text-to-image", "esd", guidance=2.0, start=start)
    made.prepare(task)
    batch = task.batches("forget", 0)[0]
    with torch.no_grad():
        concept = task.predict(batch)
        empty = task.predict(batch, torch.zeros_like(batch.condition))
    expected = {"condition": 2 * empty - concept, "empty": 3 * empty - 2 * concept}[start]
    with torch.no_grad():
        for p in task.parameters.values():
            p.add_(0.3)
    torch.testing.assert_close(made.target(task, batch), expected)
    assert not made.target(task, batch).requires_grad


def test_esd_refuses_what_it_does_not_know() -> None:
    for name, value in {"variant": "y", "start": "noise", "guidance": 0.0}.items():
        with pytest.raises(InputError, match=f"^{name} is "):
            method("text-to-image", "esd", **{name: value})


def test_the_fisher_diagonal_on_a_model_with_a_known_answer() -> None:
    model: Any = Line()
    task: Any = tiny_task(unet=model, cache=in_double(tiny_cache()))
    expected = []
    for b in task.ordered("retain", "fisher", size=1, count=5):
        slope = 2 * (b.noisy * (model.w.detach() * b.noisy - b.noise)).mean()
        expected.append(slope.square())
    torch.testing.assert_close(fisher(task, "retain", 5)[0], torch.stack(expected).mean())


def test_sas_surrogate_is_the_anchors_image_under_the_forget_caption_or_uniform_noise() -> None:
    task = tiny_task()
    shown: list[torch.Tensor] = []
    predict = task.predict

    def watched(batch: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        shown.append(batch)
        return predict(batch, *args, **kwargs)

    task.predict = watched  # type: ignore[method-assign]
    made = method("text-to-image", "sa")
    [loss() for loss in made._forget(task, 0)]
    anchors = task.batches("anchor", 0)[0]
    assert torch.equal(shown[0].clean, anchors.clean)  # type: ignore[attr-defined]
    assert shown[0].condition.tolist() == [1] * 4  # type: ignore[attr-defined]
    assert anchors.condition.tolist() == [2] * 4

    pixels: Any = tiny_class_task(shard=Shard(batch_size=64))
    seen: list[Any] = []
    denoising = pixels.denoising
    pixels.denoising = lambda b: seen.append(b) or denoising(b)  # type: ignore[func-returns-value]
    noise = method("class-conditional", "sa")
    assert noise.sets == ("forget", "retain")
    [loss() for loss in noise._forget(pixels, 0)]
    clean = seen[0].clean
    assert -1 <= float(clean.min()) < -0.95
    assert 0.95 < float(clean.max()) <= 1
    assert abs(float(clean.mean())) < 0.05
    assert float(clean.var()) == pytest.approx(1 / 3, abs=0.03)
    with pytest.raises(InputError, match="pixels"):
        method("text-to-image", "sa", surrogate="noise").check(task.model, "text-to-image")


def test_fmns_attention_probabilities_against_a_manual_softmax() -> None:
    task, made = tiny_task(), method("text-to-image", "fmn")
    made.prepare(task)
    inputs: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
    layers = cross_attentions(task.model)
    assert len(layers) > 1
    for layer in layers.values():
        layer.register_forward_hook(
            lambda m, args, kwargs, out: inputs.append(
                (m, args[0], kwargs["encoder_hidden_states"])
            ),
            with_kwargs=True,
        )
    batch = task.batches("forget", 0)[0]
    found = made.attention(task, batch)
    per_layer = []
    for layer, hidden, states in inputs:
        heads = layer.heads
        query = layer.to_q(hidden).reshape(4, -1, heads, WIDTH // heads)
        key = layer.to_k(states).reshape(4, -1, heads, WIDTH // heads)
        scores = torch.einsum("bnhd,blhd->bhnl", query, key) / (WIDTH // heads) ** 0.5
        manual = scores.exp() / scores.exp().sum(-1, keepdim=True)
        torch.testing.assert_close(probabilities(layer, hidden, states), manual)
        per_layer.append(manual[..., 1].square().flatten(1).sum(1))  # token 1 is the concept
    torch.testing.assert_close(found, torch.stack(per_layer).sum(0))
    plain = task.predict(batch)
    made.finish(task)
    assert torch.equal(plain, task.predict(batch))
    assert not any(layer._forward_pre_hooks for layer in layers.values())


def test_uce_edits_keys_and_values_of_cross_attention_and_nothing_else() -> None:
    task = tiny_task()
    before = weights(task)
    train(task, method("text-to-image", "uce"), 0)
    after = weights(task)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {k for k in before if "attn2.to_k" in k or "attn2.to_v" in k}
    task.parameters = select_parameters(task.model, "noxattn")
    with pytest.raises(InputError, match="not among the trained"):
        method("text-to-image", "uce").prepare(task)


def test_erasediff_descends_on_the_forget_loss_as_asked_and_no_more() -> None:
    task: Any = tiny_task()
    made = method("text-to-image", "erasediff", rule="adaptive", eta=0.5)
    made.step(task, 0, None)
    total = torch.cat([p.grad.flatten() for p in task.parameters.values()])
    losses = task.losses(0)
    retain, forget, _ = two_gradients(task, losses.retain, losses.forget, None)
    flat = torch.cat([g.flatten() for g in forget])
    descent = float(total @ flat) / float(flat @ flat)
    assert descent >= 0.5 - 1e-4
    if erasediff.multiplier(retain, forget, 0.5) > 0:
        assert descent == pytest.approx(0.5, abs=1e-4)
    assert erasediff.multiplier(forget, forget, 0.5) == 0  # it descends fast enough already
    opposed = [-g for g in forget]
    assert erasediff.multiplier(opposed, forget, 0.5) == pytest.approx(1.5)
    assert erasediff.multiplier(retain, [torch.zeros_like(g) for g in forget], 0.5) == 0


def test_ca_shows_anchor_images_under_both_captions_and_stops_the_anchors_gradient() -> None:
    task: Any = tiny_task()
    made = method("text-to-image", "ca", retain_weight=0.0)
    assert made.sets == ("forget", "retain", "anchor")
    asked: list[Any] = []
    mismatch = task.mismatch
    task.mismatch = lambda b: asked.append(b) or mismatch(b)  # type: ignore[func-returns-value]
    made.step(task, 0, None)
    assert asked[0].condition.tolist() == [1] * 4
    assert asked[0].anchor.tolist() == [2] * 4
    assert torch.equal(asked[0].clean, task.batches("anchor", 0)[0].clean)


def test_sfr_on_takes_the_retain_gradient_where_the_fast_step_ends() -> None:
    task = in_float64("text-to-image", Shard(batch_size=4))
    made = method("text-to-image", "sfr-on", fast_step=0.5, forget_weight=2.0, threshold=1.0)
    made.prepare(task)
    assert 0 < made._mask.share < 1
    before = weights(task)
    made.step(task, 0, None)
    assert all(torch.equal(before[key], p) for key, p in weights(task).items())
    total = [p.grad.clone() for p in task.parameters.values()]
    losses = task.losses(0)
    _, found, _ = two_gradients(task, losses.retain, losses.forget, None)
    forget = made._mask.gradients(found)
    with torch.no_grad():
        for p, g in zip(task.parameters.values(), forget, strict=True):
            p.sub_(0.5 * g)
    retain, _ = retain_gradient(task, task.losses(0).retain, None)
    for g, r, f in zip(total, retain, forget, strict=True):
        torch.testing.assert_close(g, r + 2.0 * f, rtol=1e-9, atol=1e-12)
    assert any(float(f.abs().max()) > 0 for f in forget)


def test_retrain_starts_from_fresh_weights() -> None:
    task = tiny_class_task()
    before = weights(task)
    method("class-conditional", "retrain").prepare(task)
    after = weights(task)
    changed = [not torch.equal(before[k], after[k]) for k in before if before[k].std() > 0]
    assert all(changed)
