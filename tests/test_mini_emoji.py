"""mini-emoji: its words, its icons, its judges, and its training, in small and on drawn icons."""

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from click.testing import CliRunner
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image

from erase.cli.main import main
from erase.data.emoji import KINDS, Words, read_vocabulary, words_of
from erase.data.icons import Icons, background_colours, read_icons
from erase.data.rendered import rendered_suite
from erase.embedded import stages
from erase.embedded.mini_emoji import train_mini_emoji
from erase.embedded.mini_emoji_captions import MIX, OTHER_WORDS, CaptionDrawer
from erase.embedded.mini_emoji_card import Training, command, model_card
from erase.embedded.mini_emoji_model import Design, build_pipeline
from erase.embedded.mini_emoji_quality import Judges, Quality, measure_quality
from erase.embedded.mini_emoji_stages import Pictures
from erase.errors import InputError
from erase.files import hash_files
from erase.judges.classifier import load_judge
from erase.judges.emoji import ColourJudge, border_levels
from erase.judges.icon_classifier import IconClassifier, IconReference
from erase.runs import checkpoint
from erase.runs.folder import locked
from tests.emoji_world import DESIGN, RECIPE, draw_sheets, few_words

ALL = read_vocabulary()
FEW = few_words()


@pytest.fixture(scope="module")
def icons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sheets(tmp_path_factory.mktemp("icons"), FEW)


def train(icons: Path, folder: Path, **changes: Any) -> dict[str, str]:
    """Train into `folder`; return the hashes of the pipeline and of the judges."""
    settings: dict[str, Any] = {
        "judges_output": folder / "judges",
        "recipe": RECIPE,
        "design": DESIGN,
        "vocabulary": FEW,
        "images_a_pair": 0,
        "quiet": True,
        **changes,
    }
    train_mini_emoji(folder / "model", icons, **settings)
    weights = {kind: folder / kind for kind in ("model", "judges")}
    return {kind: hash_files(path.rglob("*.safetensors"), path) for kind, path in weights.items()}


@pytest.fixture(scope="module")
def trained(icons: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("trained")
    states = {"checkpoints": folder / "states", "checkpointing_steps": 2}
    return folder, train(icons, folder, **states)


@pytest.fixture(scope="module")
def shipped() -> StableDiffusionPipeline:
    """Of the shipped sizes, untrained."""
    return build_pipeline(0, Design(), ALL)


@pytest.fixture(scope="module")
def drawer(shipped: StableDiffusionPipeline) -> CaptionDrawer:
    return CaptionDrawer(shipped.tokenizer, ALL, torch.device("cpu"))


# Words


def test_there_are_enough_objects_styles_and_colours() -> None:
    assert len(ALL.objects) >= 24
    assert len(ALL.styles) >= 4
    assert len(ALL.colours) >= 4
    levels = torch.tensor([colour.levels for colour in ALL.colours]).float()
    apart = torch.cdist(levels, levels) + 1000 * torch.eye(len(levels))
    assert apart.min() > 40  # of 255 levels: the border tells them apart


@pytest.mark.parametrize("kind", KINDS)
def test_other_words_never_use_the_name_of_anything(kind: str) -> None:
    names = {name for other in KINDS for name in ALL.names(other)}
    for thing in ALL.things(kind):
        others = [*thing.synonyms, *thing.descriptions, *thing.held_out]
        assert len(set(others)) == len(others)
        for text in others:
            assert not words_of(text) & (names - {"orange"}), text


def test_held_out_captions_are_new_but_their_words_are_not() -> None:
    everything = range(len(ALL.objects)), range(len(ALL.styles)), range(len(ALL.colours))
    trained: set[str] = set(ALL.templates["generic"])
    for split, kinds, _ in MIX:
        ranges = [r if k in kinds.split() else [0] for k, r in zip(KINDS, everything, strict=True)]
        for place in itertools.product(*ranges):
            labels = {k: n for k, n in zip(KINDS, place, strict=True) if k in kinds.split()}
            if split == "train" and len(labels) < 3:
                trained |= set(ALL.captions("train", labels))
            if split == "paraphrase":
                for kind, words in itertools.product(labels, OTHER_WORDS):
                    trained |= set(ALL.captions(split, labels, {kind: words}))
    known = set().union(*map(words_of, trained))
    for kind in ("object", "style"):
        for label in everything[KINDS.index(kind)]:
            for words in get_args(Words):
                texts = set(ALL.captions("evaluate", {kind: label}, {kind: words}))
                assert texts or not ALL.things(kind)[label].words(words)
                assert not texts & trained
                assert set().union(*map(words_of, texts)) <= known, texts


def test_captions_name_what_is_asked_for_and_nothing_else() -> None:
    texts = ALL.captions("evaluate", {"object": 0, "style": 1, "colour": 2})
    assert texts
    for text in texts:
        assert "cat" in text
        assert "flat" in text
        assert "yellow" in text
    others = set(ALL.names("style")) | set(ALL.names("colour"))
    for text in ALL.captions("train", {"object": 0}):
        assert not words_of(text) & others
    assert "an emojione picture" in ALL.captions("train", {"style": 5})


def test_every_word_is_one_token_and_every_caption_fits(
    shipped: StableDiffusionPipeline, drawer: CaptionDrawer
) -> None:
    tokenizer = shipped.tokenizer
    for word in set().union(*map(words_of, ALL.texts())):
        assert len(tokenizer(word).input_ids) == 3
    assert max(map(len, tokenizer(drawer.texts).input_ids)) <= tokenizer.model_max_length


def test_drawn_captions_follow_the_labels_and_the_mix() -> None:
    tokenizer = build_pipeline(0, DESIGN, FEW).tokenizer
    drawer = CaptionDrawer(tokenizer, FEW, torch.device("cpu"))
    count = 4000
    labels = [torch.full((count,), n) for n in (2, 1, 0)]
    tokens = drawer.draw(labels, torch.Generator().manual_seed(0))
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    assert abs(texts.count("") / count - 0.1) < 0.02
    wrong = {*FEW.names("object")[:2], FEW.styles[0].name, FEW.colours[1].name}
    assert not set().union(*map(words_of, texts)) & wrong
    assert sum("fox" in text for text in texts) > count / 2


def test_a_training_caption_is_drawn_for_every_row_of_the_mix(drawer: CaptionDrawer) -> None:
    assert int(drawer._counts.min()) >= 1
    assert sum(share for *_, share in MIX) == pytest.approx(1.0)


# Icons


def test_icons_lie_on_their_background(icons: Path) -> None:
    pictures = Pictures(read_icons(icons, FEW).to("cpu", 16), FEW, 0)
    assert pictures.icons.tiles.shape == (3, 2, 4, 32, 32)
    images = pictures.all_once()
    assert images.shape == (12, 3, 16, 16)
    paper = background_colours(FEW)
    torch.testing.assert_close(border_levels(images[:2]), paper, atol=0.02, rtol=0.0)
    assert (images[0] - images[2]).abs().max() > 0.1  # another style
    assert torch.equal(images, pictures.all_once())


def test_transparent_icons_leave_the_background_alone() -> None:
    icons = Icons(torch.zeros(1, 1, 4, 32, 32))
    label, draws = torch.zeros(2, dtype=torch.long), torch.Generator().manual_seed(0)
    paper = torch.tensor([[0.5, -0.5, 1.0], [-1.0, 0.0, 0.25]])
    images = icons.compose(label, label, paper, draws)
    assert torch.equal(images, paper[:, :, None, None].expand(2, 3, 16, 16))


# Judges


def test_judges_are_loaded_by_folder_and_see_real_icons(
    trained: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder = trained[0] / "judges" / "emoji-objects"
    judge = load_judge(str(folder), FEW.names("object"))
    assert judge.classes == FEW.names("object")
    Image.new("RGB", (20, 20), "pink").save(tmp_path / "x.png")
    seen = judge.predict([tmp_path / "x.png"])
    assert seen.probabilities.shape == (1, 3)
    assert seen.probabilities.sum() == pytest.approx(1.0)
    reference = judge.reference()
    assert reference is not None
    assert len(reference.labels) == 12
    assert reference.features.shape == (12, seen.features.shape[1])
    styles = IconReference.load(trained[0] / "judges" / "emoji-styles")
    assert styles.styles.tolist() == [0, 0, 1, 1] * 3
    with pytest.raises(InputError, match="no class 'zebra'"):
        load_judge(str(folder), ["zebra"])


def test_the_border_tells_the_colour(tmp_path: Path) -> None:
    judge = load_judge("emoji-colours", [])
    assert isinstance(judge, ColourJudge)
    files = []
    for colour in ALL.colours:
        image = Image.new("RGB", (64, 64), colour.levels)
        image.paste((30, 30, 30), (10, 10, 54, 64))
        files.append(tmp_path / f"{colour.name}.png")
        image.save(files[-1])
    seen = judge.predict(files)
    assert seen.probabilities.argmax(1).tolist() == list(range(len(files)))
    assert seen.probabilities.max(1).min() > 0.9


# Training


def test_the_folder_is_a_pipeline_with_its_card(trained: tuple[Path, dict[str, str]]) -> None:
    folder = trained[0] / "model"
    pipeline = DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    assert type(pipeline) is StableDiffusionPipeline
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a flat cat", num_inference_steps=1).images[0].size == (16, 16)
    assert rendered_suite(str(folder)) == "emoji"
    card = (folder / "README.md").read_text(encoding="utf-8")
    for part in ("MIT", "Apache-2.0", "CC BY 4.0", "attribution", "erase train mini-emoji"):
        assert part in card
    assert max(len(line) for line in card.splitlines() if "|" not in line and "`" not in line) < 130


def test_latents_are_standard_and_the_pictures_stay(trained: tuple[Path, dict[str, str]]) -> None:
    vae = DiffusionPipeline.from_pretrained(trained[0] / "model", use_safetensors=True).vae
    icons = draw_sheets(trained[0] / "icons", FEW)
    pictures = Pictures(read_icons(icons, FEW).to("cpu", 16), FEW, 0)
    images, *_ = pictures.draw(256, pictures.generator("test"))
    latents = stages.encode(vae, images)
    assert vae.config.scaling_factor == 1.0
    assert latents.mean((0, 2, 3)).abs().max() < 0.2
    assert (latents.std((0, 2, 3)) - 1.0).abs().max() < 0.2


def test_the_same_seed_gives_the_same_bytes(
    icons: Path, trained: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    before = torch.random.get_rng_state()
    assert train(icons, tmp_path / "again") == trained[1]
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
def test_another_seed_gives_other_bytes(
    icons: Path, trained: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    other = train(icons, tmp_path / "other", seed=1)
    assert other["model"] != trained[1]["model"]
    assert other["judges"] != trained[1]["judges"]


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("autoencoder", marks=pytest.mark.slow),
        pytest.param("judges", marks=pytest.mark.slow),
        "denoiser",
    ],
)
def test_an_interrupted_training_goes_on_to_the_same_bytes(
    icons: Path,
    trained: tuple[Path, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    whole, saved = checkpoint.save_checkpoint, []

    def save(folder: Path, *arguments: Any, **more: Any) -> Path:
        path = whole(folder, *arguments, **more)
        if folder.name == stage:
            saved.append(path)
            raise KeyboardInterrupt
        return path

    settings: dict[str, Any] = {"checkpoints": tmp_path / "states", "checkpointing_steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr(stages, "save_checkpoint", save)
        with pytest.raises(KeyboardInterrupt):
            train(icons, tmp_path, **settings)
    assert [path.name for path in saved] == ["checkpoint-1"]
    assert not (tmp_path / "model").exists()
    assert train(icons, tmp_path, **settings) == trained[1]


def test_states_of_another_training_are_refused(
    icons: Path, trained: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    states = {"checkpoints": trained[0] / "states", "checkpointing_steps": 2}
    with pytest.raises(InputError, match="another run"):
        train(icons, tmp_path / "b", seed=5, **states)
    longer = replace(RECIPE, steps=5)
    with pytest.raises(InputError, match="another run"):
        train(icons, tmp_path / "b", recipe=longer, **states)
    with locked(trained[0] / "states"), pytest.raises(InputError, match="Another process"):
        train(icons, tmp_path / "b", **states)
    assert not (tmp_path / "b" / "model").exists()


def test_minutes_end_a_training_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(stages, "TIMED", 5)
    fit = stages._Fit(stages.Stage("x", 1000, 1.0, falling=0.5, minutes=1.0), 0.0)
    steps = 1000
    for step in range(40):
        steps = fit.steps(step, steps)
        if step >= steps // 2:
            break
    # A look at the clock counts a second here: 5 steps a second, so some 300 steps in 60 seconds.
    assert 250 <= steps <= 320


def test_the_card_names_the_settings_that_differ() -> None:
    recipe = replace(RECIPE, bf16=True, minutes=None)
    training = Training(3, recipe, DESIGN, {}, "cpu", 0.1, 0.1, {})
    said = command(training)
    for part in ("--seed 3", "--max-train-steps 4", "--vae-steps 3", "--mixed-precision bf16"):
        assert part in said
    options = re.findall(r"--[\w-]+", said)
    known = CliRunner().invoke(main, ["train", "mini-emoji", "--help"]).output
    assert all(option in known for option in options)


def measured(folder: Path, images: int) -> Quality:
    judges = folder / "judges"
    loaded = Judges.load(judges / "emoji-objects", judges / "emoji-styles")
    return measure_quality(
        folder / "model", loaded, FEW, images=images, share=0.5, steps=1, guidance=1.0
    )


def test_quality_counts_what_the_judges_see(trained: tuple[Path, dict[str, str]]) -> None:
    quality = measured(trained[0], 2)
    assert (quality.pairs, quality.images) == (3, 2)
    assert 0.0 <= quality.both <= min(quality.object, quality.style)
    assert quality.colour is not None
    assert set(quality.paraphrases) == {"synonyms", "descriptions", "held_out"}


def test_one_picture_a_pair_says_nothing_of_backgrounds(
    trained: tuple[Path, dict[str, str]],
) -> None:
    quality = measured(trained[0], 1)
    assert quality.colour is None
    training = Training(3, RECIPE, DESIGN, {}, "cpu", 0.1, 0.1, {})
    assert "| background, where named | not measured |" in model_card(training, quality, FEW)


def test_the_shipped_sizes_stay_small(shipped: StableDiffusionPipeline) -> None:
    parts = [shipped.unet, shipped.vae, shipped.text_encoder]
    parts += [IconClassifier(kind, ALL.names(kind), Design().size) for kind in ("object", "style")]
    sizes = [2 * sum(p.numel() for p in part.parameters()) for part in parts]
    assert sum(sizes) <= 24e6
    assert max(sizes[3:]) <= 1.5e6
