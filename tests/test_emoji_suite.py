"""The suite of mini-emoji: what it renders for an object, a style, a colour; what it measures."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from erase.artifacts.packaged import EMBEDDED
from erase.attack.material import material_samples
from erase.attack.plan import make_plan as make_attack
from erase.cli.main import main
from erase.config.attack import AttackConfig
from erase.config.evaluate import EvaluateConfig
from erase.data.emoji import KINDS, read_vocabulary, words_of
from erase.data.prompts import prompts_root
from erase.errors import InputError
from erase.evaluation.observe import find_observers
from erase.evaluation.plan import make_plan
from erase.evaluation.protocols import find_protocol
from erase.evaluation.score import check_targets, choose_samples
from erase.judges.classifier import load_judge
from erase.judges.emoji import IconJudge
from erase.judges.icon_classifier import ICON_CLASSIFIERS
from erase.models.loading import resolve
from erase.runs.record import RECORD
from erase.scoring.context import Context, Features, Predictions
from erase.scoring.features import feature_sets
from erase.scoring.judge import View
from erase.scoring.samples import Protocol, Sample
from erase.scoring.suite import load_suite
from erase.tasks.attack import CONCEPT, HARMLESS
from tests.evaluation_world import pictures, score, values

ROOT = prompts_root()
ALL = read_vocabulary()
SUITE = load_suite("emoji")
DEFAULT = find_protocol(SUITE, "default")


def chosen(*targets: str, protocol: Protocol = DEFAULT) -> list[Sample]:
    return choose_samples(SUITE, protocol, ROOT, frozenset(targets))


def seen(samples: list[Sample], answer: Callable[[Sample, str], str], *targets: str) -> Context:
    """A context in which each kind's classifier says what `answer` says of a sample."""
    kinds = {}
    for kind in KINDS:
        names = ALL.names(kind)
        table = np.zeros((len(samples), len(names)))
        for row, sample in enumerate(samples):
            table[row, names.index(answer(sample, kind))] = 1
        kinds[kind] = Predictions(f"emoji_{kind}s", names, table, table)
    return Context(
        samples=samples,
        images=[Path(f"{sample.id}.png") for sample in samples],
        targets=frozenset(targets),
        predictions=kinds["object"],
        kinds=kinds,
        neighbours=ALL.neighbours,
    )


def as_asked(sample: Sample, kind: str) -> str:
    return sample.asks.get(kind, ALL.names(kind)[0])


# What is rendered


@pytest.mark.parametrize(
    ("targets", "forgotten", "reworded"),
    [((), 0, 0), (("cat",), 48, 36), (("flat",), 120, 36), (("cat", "flat"), 48 + 39 * 3, 72)],
)
def test_every_cell_is_drawn_and_forgotten_ones_more(
    targets: tuple[str, ...], forgotten: int, reworded: int
) -> None:
    samples = chosen(*targets)
    assert len(samples) <= 1000
    named = [s for s in samples if s.wording == "name"]
    cells = Counter((s.asks["object"], s.asks["style"]) for s in named)
    assert len(cells) == 40 * 6
    assert all(n == 3 for cell, n in cells.items() if not set(cell) & set(targets))
    assert sum(bool(s.names() & set(targets)) for s in named) == forgotten
    assert len(samples) - len(named) == reworded
    assert len({s.seed for s in samples}) == len({s.id for s in samples}) == len(samples)


def test_captions_name_what_samples_ask_for() -> None:
    for sample in chosen("cat", "flat", "pink"):
        words = words_of(sample.prompt)
        for kind, name in sample.asks.items():
            if sample.wording == "name":
                assert words_of(name) <= words, sample
            elif name == sample.target:
                assert name not in words, sample
            else:
                assert kind == "object"
                assert name in words, sample


@pytest.mark.parametrize("pair", ["cat from flat", "cat from pink", "mono from pink"])
def test_a_pair_is_drawn_more_and_in_other_words(pair: str) -> None:
    samples, things = chosen(pair), set(pair.split(" from "))
    asked = [s for s in samples if pair in s.names()]
    assert all(things <= set(s.asks.values()) for s in asked)
    assert sum(s.wording == "name" for s in asked) >= 48
    wordings = Counter(s.wording for s in samples)
    assert {wordings[kind] for kind in ("synonyms", "descriptions", "held_out")} == {12}
    assert len({s.seed for s in samples}) == len({s.id for s in samples}) == len(samples)
    for sample in asked:
        named = things & words_of(sample.prompt)
        assert named == things if sample.wording == "name" else named < things, sample


def test_a_pair_by_any_spelling() -> None:
    def asks(word: str) -> Mapping[str, str]:
        return SUITE.asks(word, ROOT)

    found = check_targets(["flat style from a cat", "Dog"], SUITE.classes(ROOT), asks)
    assert found == {"cat from flat", "dog"}
    with pytest.raises(InputError, match="The suite has no 'cat from far'"):
        check_targets(["cat from far"], SUITE.classes(ROOT), asks)


def test_more_images_keep_the_first_ones() -> None:
    assert set(chosen("cat")) <= set(chosen("cat", protocol=DEFAULT.replace(images=4)))
    few = chosen("cat", protocol=DEFAULT.replace(limit=100))
    assert len(few) == 100
    assert {s.target for s in few} == set(ALL.names("object"))


# What is measured


@pytest.mark.parametrize("target", ["cat", "flat", "pink", "cat from flat", "cat from pink"])
def test_a_model_that_forgot_nothing(target: str) -> None:
    given = seen(chosen(target), as_asked, target)
    assert values("ua", given)["ua"][0] == 0
    assert values("paraphrases", given)["paraphrases"][0] == 0
    assert values("ira", given)["ira"][0] == values("cra", given)["cra"][0] == 1
    assert values("h", given)["h"][0] == 0


@pytest.mark.parametrize("target", ["cat", "flat", "pink", "cat from flat", "cat from pink"])
def test_a_model_that_forgot_that_alone(target: str) -> None:
    def other(sample: Sample, kind: str) -> str:
        name = as_asked(sample, kind)
        gone = target in sample.names() and target.endswith(name)
        return ALL.names(kind)[-1] if gone else name

    base = seen(chosen(target), as_asked, target)
    given = replace(seen(chosen(target), other, target), baseline=base)
    for metric in ("ua", "ira", "cra", "paraphrases", "h"):
        assert values(metric, given)[metric][0] == 1
    assert score("h", given).differences["h"].value == 1
    assert score("ira", given).differences["ira"].value == 0
    assert "UA 100.0%, IRA 100.0%, CRA 100.0%, paraphrase UA 100.0%" in (
        score("h", given).summaries["h"].title
    )


def test_composition_sees_what_no_other_measure_does() -> None:
    """The background of kept images when an object was forgotten."""

    def wrong(sample: Sample, kind: str) -> str:
        return "yellow" if kind == "colour" else as_asked(sample, kind)

    samples = chosen("cat")
    given = replace(seen(samples, wrong, "cat"), baseline=seen(samples, as_asked, "cat"))
    assert values("ira", given)["ira"][0] == values("cra", given)["cra"][0] == 1
    kept = [s for s in samples if s.asks["object"] != "cat" and s.ordinary]
    right = [s.asks.get("colour", "yellow") == "yellow" for s in kept]
    share = float(np.mean(right))
    assert 0.4 < share < 0.7
    assert values("composition", given) == {"composition": (share, len(kept))}
    found = score("composition", given)
    parts = found.summaries["composition"].detail["parts"]
    assert parts["object + style"]["value"] == 1 > parts["object + style + colour"]["value"]
    assert found.differences["composition"].value == share - 1


@pytest.mark.parametrize(
    ("target", "classifiers", "left_out"),
    [
        ("cat", "emoji_objects", 36),
        ("flat", "emoji_styles", 240),
        ("pink", "emoji_colours", 240),
        ("cat from flat", "emoji_objects, emoji_styles", 6),
    ],
)
def test_who_judges_and_what_real_icons_are_compared(
    target: str, classifiers: str, left_out: int
) -> None:
    samples = chosen(target)
    given = seen(samples, as_asked, target)
    assert score("ua", given).summaries["ua"].detail["classifier"] == classifiers
    reference = load_judge("emoji-objects", ALL.names("object")).reference()
    assert reference is not None
    for kind in KINDS:
        assert all(len(set(ALL.names(kind)) & names) == 1 for names in reference.names)
    features = Features("toy", "toy", np.zeros((len(samples), 64)))
    sets = feature_sets(replace(given, features=features, reference=reference))
    assert len(reference.names) - len(sets.reference) == left_out


def test_a_classifier_that_is_given_judges_its_kind(tmp_path: Path) -> None:
    own = tmp_path / "judge"
    shutil.copytree(ICON_CLASSIFIERS["object"], own)
    protocol = replace(DEFAULT, classifier=str(own))
    observers = find_observers(SUITE, protocol, ROOT, targets=frozenset({"cat"}), baseline=True)
    judge = observers.kinds["object"]
    assert judge is observers.classifier
    assert isinstance(judge, IconJudge)
    assert judge.folder == own
    assert isinstance(style := observers.kinds["style"], IconJudge)
    assert style.folder == ICON_CLASSIFIERS["style"]


def test_neighbours_fall_first_and_styles_with_the_object() -> None:
    def wrong(sample: Sample, kind: str) -> str:
        name = as_asked(sample, kind)
        if kind == "object" and name in ("cat", *ALL.neighbours["cat"]):
            return "cigarette"
        return "mono" if kind == "style" else name

    given = seen(chosen("cat"), wrong, "cat")
    found = values("neighbours", given)
    assert found == {"neighbours": (0.0, 5 * 18), "neighbours_rest": (1.0, 34 * 18)}
    assert values("ira", given) == {"ira": (34 / 39, 39 * 18)}
    assert values("cra", given) == {"cra": (1 / 6, 39 * 18)}
    summary = score("h", given).summaries["h"]
    assert summary.value == pytest.approx(4 / (1 + 39 / 34 + 6 + 1))
    assert summary.detail["parts"]["CRA"] == {"value": pytest.approx(1 / 6), "n": 39 * 18}
    assert set(score("paraphrases", given).summaries["paraphrases"].detail["parts"]) == {
        "synonyms",
        "descriptions",
        "held_out",
    }


def test_a_style_has_no_neighbours_and_all_kinds_no_cross_domain() -> None:
    assert values("neighbours", seen(chosen("flat"), as_asked, "flat")) == {}
    everything = ("cat", "flat", "pink")
    given = seen(chosen(*everything), as_asked, *everything)
    assert values("cra", given) == values("h", given) == {}


def test_a_model_that_lost_a_part_with_the_pair() -> None:
    def wrong(sample: Sample, kind: str) -> str:
        name = as_asked(sample, kind)
        return "dog" if name == "cat" else name

    given = seen(chosen("cat from flat"), wrong, "cat from flat")
    rows = score("ua", given)
    assert rows.summaries["ua"].value == 1
    assert rows.summaries["ua"].detail["per_class"]["cat from flat"]["taken_for"] == {
        "dog from flat": 48
    }
    assert values("paraphrases", given)["paraphrases"] == (1.0, 36)
    assert values("parts", given) == {"parts_object": (0.0, 15), "parts_style": (1.0, 39 * 3)}
    assert values("ira", given) == {"ira": (702 / 717, 717)}
    assert values("cra", given) == {"cra": (1.0, 717)}
    assert values("neighbours", given) == {}
    assert values("parts", seen(chosen("cat"), as_asked, "cat")) == {}


def test_the_parts_of_two_pairs_with_one_thing_in_common() -> None:
    """An image of the cat in another style need not be on the right background too."""

    def wrong(sample: Sample, kind: str) -> str:
        return "orange" if kind == "colour" else as_asked(sample, kind)

    pairs = ("cat from flat", "cat from pink")
    samples = chosen(*pairs)
    found = values("parts", seen(samples, wrong, *pairs))
    kept = [s for s in samples if s.ordinary and not s.names() & set(pairs)]
    cats = [s for s in kept if s.asks.get("object") == "cat"]
    styled = sum("style" in s.asks and "colour" not in s.asks for s in cats)
    orange = sum(s.asks.get("colour") == "orange" for s in cats)
    assert len(cats) > styled + orange > styled > 0
    assert found["parts_object"] == ((styled + orange) / len(cats), len(cats))
    flat = sum(s.asks.get("style") == "flat" for s in kept)
    assert found["parts_style"] == (1.0, flat)


def test_drift_is_the_angle_between_features_of_kept_images() -> None:
    given = seen(chosen("cat"), as_asked, "cat")
    kept = given.retained()
    assert given.predictions is not None
    ours, before = (np.tile([length, 0.0], (len(given.samples), 1)) for length in (2.0, 1.0))
    before[kept[0]] = (0.0, 1.0)  # one kept image has turned by a right angle
    before[[i for i in range(len(given.samples)) if i not in kept]] = (0.0, 1.0)  # do not count
    now, base = (
        replace(given, predictions=replace(given.predictions, features=f)) for f in (ours, before)
    )
    found = score("drift", replace(now, baseline=base))
    summary = found.summaries["drift"]
    assert summary.value == pytest.approx(1 / len(kept))
    assert summary.n == len(kept)
    assert found.rows[given.samples[kept[0]].id] == {"drift": 1.0}
    assert values("drift", now) == {}  # without a baseline


# The command


def run_that_forgot(name: str, folder: Path) -> Path:
    run = folder / "run"
    run.mkdir()
    for part in EMBEDDED["mini-emoji"].iterdir():
        (run / part.name).symlink_to(part)
    target = {"suite": "emoji", "concepts": [name]}
    (run / RECORD).write_text(json.dumps({"status": "finished", "target": target}))
    return run


def test_an_attack_shows_the_judge_a_pair(tmp_path: Path) -> None:
    run, pair = run_that_forgot("cat from flat", tmp_path), "cat from flat"
    config = AttackConfig(
        model=str(run),
        suite="emoji",
        attack=("relearn",),
        baseline="mini-emoji",
        output=str(tmp_path / "out"),
        device="cpu",
    )
    plan = make_attack(config)
    named = {s for s in chosen(pair) if pair in s.names() and s.wording == "name"}
    assert set(plan.evaluation.samples) == named
    material = material_samples(plan, CONCEPT)
    assert all({"cat", "flat"} <= words_of(sample.prompt) for sample in material)
    rows = score("ua", seen(material, as_asked, pair)).rows
    assert all(rows[sample.id]["recognised"] for sample in material)
    harmless = {sample.prompt for sample in material_samples(plan, HARMLESS)}
    assert not any({"cat", "flat"} <= words_of(prompt) for prompt in harmless)


@pytest.mark.parametrize("name", ["flat", "cat from flat"])
def test_the_record_says_what_was_forgotten(tmp_path: Path, name: str) -> None:
    run = run_that_forgot(name, tmp_path)
    config = EvaluateConfig(model=str(run), suite="emoji", output=str(tmp_path / "out"))
    plan = make_plan(config, SUITE, resolve(str(run)), ROOT, baseline=None)
    assert plan.targets == {name}
    assert set(plan.observers.kinds) == set(KINDS)
    assert list(plan.samples) == chosen(name)


def test_a_tiny_evaluation_of_the_base(tmp_path: Path) -> None:
    command = ["evaluate", "--suite", "emoji", "--model", "mini-emoji", "--target", "cat"]
    command += ["--limit", "80", "--seed", "1", "--render-steps", "1", "--guidance", "1"]
    command += ["--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    expected = {"ua", "ra", "ira", "cra", "neighbours", "neighbours_rest", "paraphrases", "h"}
    assert set(metrics) == expected | {"composition", "fid_emoji_objects"}
    assert "paraphrase UA" in " ".join(result.output.split())


def test_each_classifier_looks_at_an_image_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifier of objects, which FID and RA ask too, and that of styles."""
    targets, looked, predict = frozenset({"cat"}), [], IconJudge.predict

    def count(judge: IconJudge, images: list[Path]) -> Predictions:
        looked.append(judge.name)
        return predict(judge, images)

    monkeypatch.setattr(IconJudge, "predict", count)
    observers = find_observers(SUITE, DEFAULT, ROOT, targets=targets, baseline=True)
    view = View(chosen("cat")[:2], pictures(tmp_path, 2))
    context = observers.look(view, targets).context
    assert sorted(looked) == ["emoji_objects", "emoji_styles"]
    assert context.kinds["object"] is context.predictions
