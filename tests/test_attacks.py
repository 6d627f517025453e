"""What holds for every attack, on tiny pipelines, and what each of them promises."""

from pathlib import Path

import numpy as np
import pytest
import torch

from erase import registry
from erase.config.families import TEXT_TO_IMAGE
from erase.errors import InputError
from erase.scoring.samples import Sample
from erase.tasks.attack import SIZES, Attack, Facts, Stage, Victim, find_attack
from erase.tasks.partway import inverted, partway
from erase.tasks.prompts import Vocabulary, concept_words, replaced_tokens, with_word
from tests.attack_world import QUICK, SAMPLES, STEPS, quick_attack, rendered, victim
from tests.tiny_pipelines import sd

NAMES = registry.names("attacks")
TINY = sd()
FACTS = Facts(TINY.scheduler, STEPS, lambda: TINY.tokenizer)
READING = ("p4d", "ring-a-bell", "textual-inversion", "unlearndiffatk")
"""Those that look into the text encoders, which are two in SDXL."""
CHANGES_WEIGHTS = {"relearn", "textual-inversion"}


def run(attack: Attack, attacked: Victim) -> dict[str, tuple[list[str], bytes]]:
    """Prompts and pixels of every stage."""
    found = {}
    for stage in attack.stages():
        rendering = attack.prepare(attacked, stage, SAMPLES)
        assert [sample.id for sample in rendering.samples] == [sample.id for sample in SAMPLES]
        images = rendered(attacked, rendering)
        assert images.shape == (2, attacked.size, attacked.size, 3)
        found[stage.name] = ([s.prompt for s in rendering.samples], images.tobytes())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_states_its_settings_and_their_source(name: str) -> None:
    module = registry.load("attacks", name)
    assert set(module.RECIPES) == set(SIZES)
    for small in (True, False):
        spec = find_attack(name, small, {})
        assert spec.source
        attack = spec.build()
        stages = attack.stages()
        assert stages
        assert len({stage.name for stage in stages}) == len(stages)
        assert attack.budget()
        assert attack.families
    with pytest.raises(InputError, match=f"{name} has no setting 'llama'"):
        find_attack(name, True, {"llama": "1"})


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Euler's
@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "sd1") for name in NAMES]
    + [(name, "sdxl") for name in READING]
    + [
        pytest.param(name, kind, marks=pytest.mark.slow)
        for kind in ("sd2-v", "sdxl")
        for name in NAMES
        if kind != "sdxl" or name not in READING
    ],
)
def test_an_attack_renders_the_samples_and_again_the_same(
    name: str, kind: str, tmp_path: Path
) -> None:
    attack, attacked = quick_attack(name), victim(kind, tmp_path / "one")
    if TEXT_TO_IMAGE not in attack.families:
        return
    attack.check(FACTS)
    before = [p.detach().clone() for p in attacked.denoiser.parameters()]
    table = attacked.encoders[0].get_input_embeddings().weight.detach().clone()
    first = run(attack, attacked)
    if name not in CHANGES_WEIGHTS:
        now = attacked.denoiser.parameters()
        assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))
        assert torch.equal(table, attacked.encoders[0].get_input_embeddings().weight)
    if kind == "sd1":
        assert run(quick_attack(name), victim(kind, tmp_path / "two")) == first


def test_the_base_completes_its_own_image(tmp_path: Path) -> None:
    attacked = victim("sd1", tmp_path)
    attack = quick_attack("completion")
    own = attacked.pipeline.scheduler
    attacked.pipeline.scheduler = partway(own)
    plain = rendered(attacked, type(attack.prepare(attacked, Stage("0.5"), SAMPLES))(SAMPLES))
    attacked.pipeline.scheduler = own
    for stage in attack.stages():
        images = rendered(attacked, attack.prepare(attacked, stage, SAMPLES))
        assert np.array_equal(images, plain), stage.name


def test_inversion_finds_the_noise_of_an_image() -> None:
    pipeline = sd()
    torch.manual_seed(3)
    noise = torch.randn(2, 4, 8, 8)
    states = torch.randn(2, 16, 16)

    @torch.no_grad()
    def predict(x: torch.Tensor, timestep: int) -> torch.Tensor:
        return pipeline.unet(x, timestep, states, return_dict=False)[0]

    sampler = partway(pipeline.scheduler)
    sampler.set_timesteps(5)
    latents = noise
    for timestep in sampler.timesteps:
        output = predict(latents, timestep)
        latents = sampler.step(output, int(timestep), latents, return_dict=False)[0]
    errors = [
        float(
            (inverted(predict, pipeline.scheduler, latents, steps=5, refinements=n) - noise).norm()
        )
        for n in (0, 8)
    ]
    assert errors[1] < 0.1 * errors[0]


def test_fine_tuning_goes_on_from_stage_to_stage_and_starts_anew_for_other_images(
    tmp_path: Path,
) -> None:
    one, other = victim("sd1", tmp_path / "one"), victim("sd1", tmp_path / "other")
    original = [p.detach().clone() for p in one.denoiser.parameters()]
    attack = quick_attack("relearn")
    weights = {}
    for stage in attack.stages():
        attack.prepare(one, stage, SAMPLES)
        weights[stage.name] = [p.detach().clone() for p in one.denoiser.parameters()]
    for kind in ("concept", "harmless"):
        assert all(map(torch.equal, weights[f"{kind}-0"], original))
        assert not all(map(torch.equal, weights[f"{kind}-2"], weights[f"{kind}-1"]))
    assert not all(map(torch.equal, weights["harmless-2"], weights["concept-2"]))
    quick_attack("relearn").prepare(other, Stage("harmless-2", "harmless", 2), SAMPLES)
    assert all(map(torch.equal, weights["harmless-2"], other.denoiser.parameters()))


def test_fine_tuning_is_for_class_conditional_models_too(tmp_path: Path) -> None:
    attacked = victim("ddpm", tmp_path)
    attack = quick_attack("relearn")
    before = [p.detach().clone() for p in attacked.denoiser.parameters()]
    rendering = attack.prepare(attacked, Stage("concept-1", "concept", 1), SAMPLES)
    assert rendered(attacked, rendering).shape[0] == 2
    assert not all(map(torch.equal, before, attacked.denoiser.parameters()))


def test_fine_tuning_may_train_an_adapter_alone(tmp_path: Path) -> None:
    attacked = victim("sd1", tmp_path)
    before = {n: p.detach().clone() for n, p in attacked.denoiser.named_parameters()}
    attack = quick_attack("relearn", lora_rank="2", trainable="xattn")
    attack.prepare(attacked, Stage("concept-2", "concept", 2), SAMPLES)
    now = dict(attacked.denoiser.named_parameters())
    assert any(".lora_" in name for name in now)
    for name, value in before.items():
        kept = now.get(name, now.get(name.replace(".weight", ".base_layer.weight")))
        kept = now.get(name.replace(".bias", ".base_layer.bias")) if kept is None else kept
        assert kept is not None, name
        assert torch.equal(value, kept), name


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_replaced_tokens_are_read_as_if_they_were_typed(kind: str, tmp_path: Path) -> None:
    attacked = victim(kind, tmp_path)
    vocabulary = Vocabulary(attacked.pipeline.tokenizer)
    typed = attacked.conditions(["cat car of a dog"])
    tokens = torch.tensor(
        [vocabulary.tokenizer(["cat car"], add_special_tokens=False).input_ids[0]]
    )
    tables = [encoder.get_input_embeddings().weight for encoder in attacked.encoders]
    with replaced_tokens(attacked.encoders, 1, [table[tokens] for table in tables]):
        put = attacked.conditions([f"{vocabulary.filler} {vocabulary.filler} of a dog"])
    for name, value in typed.items():
        assert torch.allclose(put[name], value, atol=1e-6), name
    again = attacked.conditions(["cat car of a dog"])
    assert torch.equal(again["states"], typed["states"])


def test_the_words_of_a_vocabulary_are_read_as_they_are_written() -> None:
    vocabulary = Vocabulary(sd().tokenizer)
    tokens = vocabulary.tokens.tolist()
    assert {"cat", "dog", "photo"} <= {vocabulary.text([token]) for token in tokens}
    text = vocabulary.text(tokens)
    assert vocabulary.tokenizer(text, add_special_tokens=False)["input_ids"] == tokens


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a photo of the digit three", "a photo of the digit w"),
        ("A nude person, outside", "A w person, outside"),
        ("the number 3, in chalk", "the number w in chalk"),
        ("a person", "w a person"),
        ("", "w"),
    ],
)
def test_a_word_takes_the_place_of_the_concepts(prompt: str, expected: str) -> None:
    pairs = [
        ("a handwritten three", "a handwritten four"),
        ("the number 3", "the number 4"),
        ("a photo of a nude person", "a photo of a person wearing clothes"),
    ]
    assert with_word(prompt, concept_words(pairs), "w") == expected


def test_the_nearest_point_of_the_simplex() -> None:
    on_simplex = registry.load("attacks", "unlearndiffatk").on_simplex
    values = torch.tensor([[0.5, 0.5, -1.0], [3.0, 0.0, 0.0], [0.2, 0.2, 0.2], [1.0, 0.8, 0.0]])
    wanted = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [1 / 3] * 3, [0.6, 0.4, 0.0]])
    assert torch.allclose(on_simplex(values), wanted, atol=1e-6)


def test_a_genetic_search_comes_nearer(tmp_path: Path) -> None:
    losses = []
    for generations in ("1", "12"):
        attacked = victim("sd1", tmp_path / generations)
        found: dict[str, float] = {}
        each = attacked.store.each

        def keep(name, samples, search, size, each=each, found=found):  # type: ignore[no-untyped-def]
            rows = each(name, samples, search, size)
            found.update({key: row["loss"] for key, row in rows.items()})
            return rows

        attacked.store.each = keep  # type: ignore[method-assign]
        attack = quick_attack("ring-a-bell", generations=generations, population="16")
        attack.prepare(attacked, attack.stages()[0], SAMPLES)
        losses.append(found)
    assert all(losses[1][sample.id] < losses[0][sample.id] for sample in SAMPLES)


@pytest.mark.parametrize(
    ("name", "setting", "value", "said"),
    [
        ("relearn", "steps", "0", "relearn.steps is '0'"),
        ("relearn", "steps", "5,x", "relearn.steps is '5,x'"),
        ("relearn", "steps", "-1,5", "relearn.steps is"),
        ("completion", "shares", "0.5,1", "completion.shares is '0.5,1'"),
        ("completion", "shares", "0.01", "no step of 4"),
        ("noise-probe", "noise", "0", "noise-probe.noise is '0'"),
        ("noise-probe", "strength", "0.01", "leaves no step"),
        ("p4d", "length", "15", "p4d.length is 15, and the model reads 14"),
        ("ring-a-bell", "length", "99", "ring-a-bell.length is 99"),
        ("unlearndiffatk", "length", "15", "the model reads 14 tokens of a prompt"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    name: str, setting: str, value: str, said: str
) -> None:
    attack = find_attack(name, True, {setting: value}).build()
    with pytest.raises(InputError) as caught:
        attack.check(FACTS)
    assert said in f"{caught.value.message} {caught.value.remedy}"


def test_every_attack_has_quick_settings() -> None:
    assert set(QUICK) <= set(NAMES)
    assert all(isinstance(sample, Sample) for sample in SAMPLES)
