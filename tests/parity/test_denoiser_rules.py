"""Other denoiser methods against their sources' published formulas, written out here."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from erase.config.families import methods_for
from erase.config.layers import Layer, fill_run
from erase.config.methods import find_method, run_defaults
from erase.core.attention import cross_attentions
from erase.core.params import select_parameters
from erase.core.trim import layers_matching, shrink
from erase.methods import shs
from erase.runs.processes import Shard
from tests.denoiser_world import in_float64, method, train, weights
from tests.parity.by_hand import flat, gradient, left
from tests.tiny import tiny_cache, tiny_class_task, tiny_task

# SalUn


def test_saluns_mask_is_made_with_guidance_8_5() -> None:
    task = tiny_task()
    batch = task.batches("forget", 0)[0]
    with torch.no_grad():
        concept = task.predict(batch)
        empty = task.predict(batch, torch.zeros_like(batch.condition))
        torch.testing.assert_close(task.guided(batch, 8.5), (1 + 7.5) * concept - 7.5 * empty)
    for kind, guidance in (("nudity", 8.5), ("class", 8.5)):
        spec = find_method("salun", "text-to-image")
        assert run_defaults(spec, "text-to-image", 512, kind)["mask_guidance"] == guidance
    spec = find_method("salun", "class-conditional")
    assert run_defaults(spec, "class-conditional", 32)["mask_guidance"] == 3.0  # (1 + 2)ε_c − 2ε_∅


def test_saluns_ddpm_mask_clips_each_batch_before_it_adds() -> None:
    task: Any = tiny_class_task(shard=Shard(batch_size=2))
    made = method("class-conditional", "salun", mask=0.4, mask_guidance=3.0, mask_clip=0.5)
    made.prepare(task)
    task.model.eval()
    total = torch.zeros(sum(p.numel() for p in task.parameters.values()))
    for batch in task.ordered("forget", "mask", size=2):
        empty = task.predict(batch, torch.full_like(batch.condition, task.empty))
        error = empty + 3.0 * (task.predict(batch) - empty) - batch.noise
        g = flat(gradient(task, -error.square().sum((1, 2, 3)).mean()))
        total += g * min(1.0, 0.5 / float(g.norm()))
    task.model.train()
    marked = flat(made._mask._moves)
    assert float(total.abs()[marked].min()) >= float(total.abs()[~marked].max()) - 1e-6


def test_saluns_other_forms() -> None:
    task = in_float64("text-to-image", Shard(batch_size=4))
    made = method("text-to-image", "salun", form="ascent", mask=1.0, retain_weight=0.3)
    made.prepare(task)
    made.step(task, 0, None)
    forget, retain = task.batches("forget", 0)[0], task.batches("retain", 0)[0]
    loss = -task.denoising(forget).mean() + 0.3 * task.denoising(retain).mean()
    torch.testing.assert_close(left(task), flat(gradient(task, loss)), rtol=1e-6, atol=1e-10)

    proximal = method("text-to-image", "salun", form="proximal", mask=0.5)
    task = tiny_task(steps=4)
    before = weights(task)
    train(task, proximal, 2)
    # After step 2 of 4, a share of 0.5 (1 − 2/4) of the weights has no change left.
    still = flat([p == before[name] for name, p in weights(task).items()]).float().mean()
    assert float(still) == pytest.approx(0.25, abs=0.01)


def test_soft_thresholding_by_hand() -> None:
    theta = [torch.tensor([1.0, 2.0, 0.0]), torch.tensor([5.0])]
    original = [torch.tensor([1.5, 1.0, 3.0]), torch.tensor([5.0])]
    shrink(theta, original, 0.5)  # changes −0.5, 1, −3, 0: two of four lie within 0.5
    assert flat(theta).tolist() == [1.5, 1.5, 0.5, 5.0]


# SHs


def test_shs_saliency_is_of_the_whole_network_and_values_are_kaimings() -> None:
    task = tiny_task()
    made = method("text-to-image", "shs", sparsity=0.7, layers="attn2", trim_batches=2)
    before = weights(task)
    made.prepare(task)
    task.model.load_state_dict(before)
    task.model.eval()
    total = {name: torch.zeros_like(p) for name, p in task.parameters.items()}
    for batch in task.ordered("forget", "trim", count=8, size=4):
        for name, g in zip(total, gradient(task, task.denoising(batch).mean()), strict=True):
            total[name] += g.abs()
    saliency = {name: (total[name] * p).abs() for name, p in before.items()}
    threshold = (
        flat(saliency.values())
        .sort(descending=True)
        .values[round(0.3 * flat(saliency.values()).numel()) - 1]
    )
    # The same trimming again, now looked at.
    made.prepare(task)
    for name, p in weights(task).items():
        changed = p != before[name]
        if "attn2" not in name:
            assert not changed.any(), name
        elif p.ndim > 1:
            assert torch.equal(changed, saliency[name] >= threshold), name
            bound = (6 / p.shape[1]) ** 0.5
            assert bool((p[changed].abs() <= bound).all())


def test_shs_trims_8_million_weights_of_stable_diffusion() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
    layers = layers_matching(unet, shs.SD_LAYERS)
    count = sum(p.numel() for layer in layers.values() for p in layer.parameters())
    assert count == pytest.approx(8.2e6, rel=0.01)


# EraseDiff


def test_erasediffs_inner_steps_are_undone_but_have_moved_adam() -> None:
    task = tiny_task()  # five forget images: two steps of four are a pass
    made = method("text-to-image", "erasediff", rule="fixed", forget_weight=0.3, inner_passes=1)
    made.prepare(task)
    start = weights(task)
    optimizer = torch.optim.Adam(list(task.parameters.values()), lr=1e-2)
    for step in range(2):
        made.step(task, step, None)
        forget = task.mismatch(task.batches("forget", step)[0]).mean()
        expected = flat(gradient(task, forget))
        torch.testing.assert_close(left(task), expected, rtol=1e-3, atol=1e-5)
        optimizer.step()
        made.after_step(task)
        assert (step == 1) == all(torch.equal(start[n], p) for n, p in weights(task).items())
    assert optimizer.state[next(iter(task.parameters.values()))]["step"] == 2
    made.step(task, 2, None)
    retain = task.denoising(task.batches("retain", 2)[0]).mean()
    forget = task.mismatch(task.batches("forget", 2)[0]).mean()
    expected = flat(gradient(task, retain + 0.3 * forget))
    torch.testing.assert_close(left(task), expected, rtol=1e-3, atol=1e-5)


def test_erasediffs_noise_is_not_that_of_the_sample() -> None:
    task: Any = tiny_class_task(shard=Shard(batch_size=64))
    made = method("class-conditional", "erasediff", target="noise")
    seen: list[Any] = []
    predict = task.predict
    task.predict = lambda batch, *a, **k: seen.append(batch) or predict(batch, *a, **k)  # type: ignore[func-returns-value]
    [loss() for loss in made._forget(task, 0)]
    own = task.batches("forget", 0)[0].noise
    target = seen[0].noise
    assert 0 <= float(target.min()) < 0.05
    assert 0.95 < float(target.max()) <= 1
    assert abs(float(torch.corrcoef(torch.stack([own.flatten(), target.flatten()]))[0, 1])) < 0.05


# UCE, FMN, CA


@pytest.mark.parametrize("variant", ["current", "first"])
def test_uces_two_releases(variant: str) -> None:
    task = tiny_task()
    before = weights(task)
    train(task, method("text-to-image", "uce", variant=variant, preserve_scale=None), 0)
    states, last = task.conditions["states"].double(), task.conditions["last"].tolist()
    if variant == "current":  # one state a prompt, that of the last word; kept at scale 1
        moved = [(states[1, last[1]][None], states[2, last[2]][None], 1.0)]
        kept = [(states[row, last[row]][None], 1.0) for row in (3, 4)]
    else:  # from the last word on; all states of what is kept and of "", at max(0.1, 1 / 3)
        moved = [(states[1, last[1] :], states[2, last[2] :], 1.0)]
        kept = [(states[row], 1 / 3) for row in (0, 3, 4)]
    lam = find_method("uce", "text-to-image")
    regularise = run_defaults(lam, "text-to-image", 32)["regularise"]
    for name, old in before.items():
        if not ("attn2.to_k" in name or "attn2.to_v" in name):
            continue
        w = old.double()
        left_side = regularise * w
        right_side = regularise * torch.eye(w.shape[1], dtype=torch.float64)
        for c, target, scale in moved:
            left_side += scale * (w @ target.T) @ c
            right_side += scale * c.T @ c
        for p, scale in kept:
            left_side += scale * (w @ p.T) @ p
            right_side += scale * p.T @ p
        expected = left_side @ torch.linalg.inv(right_side)
        found = dict(task.model.named_parameters())[name]
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_uce_reads_what_the_encoder_says_of_the_empty_prompt() -> None:
    cache = tiny_cache()
    shown = cache.conditions["states"].clone()
    shown[0] = 0.0  # as SDXL is shown the empty prompt
    zeros = replace(cache, conditions={**cache.conditions, "states": shown})
    both = replace(zeros, conditions={**zeros.conditions, "text": cache.conditions["states"]})
    made = [method("text-to-image", "uce", variant="first") for _ in range(2)]
    plain, encoded = (
        m.statistics(tiny_task(cache=c)) for m, c in zip(made, (cache, both), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, encoded, strict=True))


def test_fmns_gradient_points_as_that_of_the_norm_of_all_probabilities() -> None:
    for pooler in (False, True):
        task = in_float64("text-to-image", Shard(batch_size=4))
        made = method("text-to-image", "fmn", pooler=pooler)
        made.prepare(task)
        batch = task.batches("forget", 0)[0]
        tokens = [1, 2] if pooler else [1]  # the concept's token, and the end token after it
        with made._probe.recording() as layers:
            task.predict(batch)
            chosen = torch.cat([layer[..., tokens].flatten() for layer in layers])
        expected = flat(gradient(task, chosen.norm()))
        made.step(task, 0, None)
        made.finish(task)
        assert float(torch.cosine_similarity(left(task), expected, 0)) == pytest.approx(1, abs=1e-6)


def test_ca_weighs_by_channels_and_leaves_the_first_token_alone() -> None:
    task = in_float64("text-to-image", Shard(batch_size=4))
    with torch.no_grad():  # only the first token is there: its keys and values are all there is
        task.conditions["states"][:, 1:] = 0.0
    key = next(n for n in task.parameters if "attn2.to_v.weight" in n)
    found = {}
    for first_token in (False, True):
        made = method("text-to-image", "ca", first_token=first_token, retain_weight=0.0)
        made.prepare(task)
        made.step(task, 0, None)
        found[first_token] = task.parameters[key].grad.clone()
        if first_token:
            batch = task.batches("anchor", 0)[0]
            swapped = replace(batch, condition=batch.anchor, anchor=batch.condition)
            channels = batch.noisy.shape[1]
            expected = flat(gradient(task, channels * task.mismatch(swapped).mean()))
            torch.testing.assert_close(left(task), expected, rtol=1e-6, atol=1e-10)
        made.finish(task)
    assert not found[False].any()
    assert found[True].any()
    assert not any(layer.to_k._forward_hooks for layer in cross_attentions(task.model).values())


def test_cas_noise_based_loss() -> None:
    task = in_float64("text-to-image", Shard(batch_size=4))
    made = method("text-to-image", "ca", loss="noise", first_token=True, retain_weight=0.0)
    made.prepare(task)
    made.step(task, 0, None)
    batch = task.batches("anchor", 0)[0]
    error = task.predict(batch, batch.anchor) - batch.noise
    expected = flat(gradient(task, error.square().sum(1).mean()))
    torch.testing.assert_close(left(task), expected, rtol=1e-6, atol=1e-10)


# SFR-on


def test_sfr_ons_two_step_form_alternates_and_its_weight_falls_as_a_cosine() -> None:
    task = in_float64("text-to-image", Shard(batch_size=4))
    task.steps = 8
    made = method(
        "text-to-image",
        "sfr-on",
        form="two-step",
        forget_weight=10.0,
        decay="cosine",
        threshold=0.0,
    )
    made.prepare(task)
    made.step(task, 4, None)  # halfway: 10 (1 + cos(π/2)) / 2 = 5
    forget = task.mismatch(task.batches("forget", 2)[0]).mean()
    torch.testing.assert_close(left(task), 5 * flat(gradient(task, forget)), rtol=1e-6, atol=1e-10)
    made.step(task, 5, None)
    retain = task.denoising(task.batches("retain", 2)[0]).mean()
    torch.testing.assert_close(left(task), flat(gradient(task, retain)), rtol=1e-6, atol=1e-10)


# What a run on Stable Diffusion is given.


def test_no_rival_clips_or_drops_captions_unless_its_source_does() -> None:
    from erase.config.concept import ConceptConfig
    from erase.config.recipes import recipe

    for name in methods_for("text-to-image"):
        spec = find_method(name, "text-to-image")
        for kind in ("nudity", "class", "style"):
            values = {**run_defaults(spec, "text-to-image", 512, kind), "max_train_steps": 1}
            values.pop("epochs", None)
            layers = [Layer("method", values), Layer("size", recipe(512))]
            filled = fill_run(ConceptConfig(method=name), spec, layers)
            assert filled.caption_dropout == 0.0
            assert filled.max_grad_norm == (1.0 if name in ("ca", "fmn", "munba") else 0.0), name


def test_noxattn_is_what_the_sources_call_so() -> None:
    model = tiny_task().model
    chosen = set(select_parameters(model, "noxattn"))
    assert chosen
    assert not any("attn2" in n or n.startswith(("conv_out", "conv_norm_out")) for n in chosen)
    assert not any(n.startswith("time_embedding") for n in chosen)
    assert any("time_emb_proj" in n for n in chosen)
