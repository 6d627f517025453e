"""The digits: images, split, jitter, captions, and the classifier that judges them."""

from pathlib import Path

import pytest
import torch

from erase.core.rng import generator
from erase.data.digits import digit_captions, jitter, load_digit_images, split_digits
from erase.errors import InputError
from erase.judges.digit_classifier import (
    DIGITS_CLASSIFIER,
    DigitClassifier,
    held_out_accuracy,
    train_classifier,
)


def test_images_are_rgb_in_range() -> None:
    digits = load_digit_images()
    assert digits.images.shape == (1797, 3, 32, 32)
    assert digits.images.min() == -1.0
    assert digits.images.max() == 1.0
    assert torch.equal(digits.images[:, 0], digits.images[:, 2])
    assert sorted(set(digits.labels.tolist())) == list(range(10))


def test_split_is_disjoint_complete_stratified_and_seeded() -> None:
    split = split_digits()
    assert (len(split.train), len(split.held_out)) == (1438, 359)
    for part, low, high in ((split.train, 138, 147), (split.held_out, 34, 38)):
        counts = torch.bincount(part.labels, minlength=10)
        assert low <= counts.min() <= counts.max() <= high
    everything = [*split.train.images, *split.held_out.images]
    pixels = {image.numpy().tobytes() for image in everything}
    assert pixels == {image.numpy().tobytes() for image in load_digit_images().images}
    train = {image.numpy().tobytes() for image in split.train.images}
    assert not train & {image.numpy().tobytes() for image in split.held_out.images}
    assert torch.equal(split_digits().held_out.images, split.held_out.images)
    assert not torch.equal(split_digits(1).held_out.images, split.held_out.images)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.999, 1.0])
def test_useless_split_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="without every digit"):
        split_digits(held_out_share=share)


def test_jitter_is_seeded_small_and_keeps_the_range() -> None:
    images = load_digit_images().images[:50]
    moved = jitter(images, generator("test"))
    assert torch.equal(moved, jitter(images, generator("test")))
    assert not torch.equal(moved, images)
    assert moved.min() >= -1.0
    assert moved.max() <= 1.0 + 1e-6
    assert (moved - images).abs().mean() < 0.15
    still = jitter(images, generator("test"), degrees=0.0, shift=0.0, scale=0.0)
    torch.testing.assert_close(still, images, atol=1e-4, rtol=0.0)


def test_evaluate_captions_are_in_no_training() -> None:
    captions = digit_captions()
    evaluate = {text for label in range(10) for text in captions.captions("evaluate", label)}
    trained = set(captions.templates["generic"])
    for use in ("train", "forget", "retain"):
        for label in range(10):
            trained |= set(captions.captions(use, label))
    assert not evaluate & trained
    words = {word for text in trained for word in text.split()}
    assert {word for text in evaluate for word in text.split()} <= words


def test_captions_name_their_digit_and_no_other() -> None:
    captions = digit_captions()
    spellings = {text for digit in captions.classes for text in digit.values()}
    for label, digit in enumerate(captions.classes):
        for use in ("train", "forget", "retain", "evaluate"):
            for text in captions.captions(use, label):
                assert len(set(digit.values()) & set(text.split())) == 1
                assert not (spellings - set(digit.values())) & set(text.split())
        assert captions.label(digit["name"]) == captions.label(digit["numeral"]) == label
    assert not any(set(text.split()) & spellings for text in captions.templates["generic"])


def test_shipped_classifier_recognises_held_out_digits() -> None:
    model = DigitClassifier.load(DIGITS_CLASSIFIER)
    held_out = split_digits().held_out
    assert held_out_accuracy(model, held_out) >= 0.97
    with torch.no_grad():
        assert model.features(held_out.images[:3]).shape == (3, model.num_features)
        assert model(held_out.images[:3]).shape == (3, 10)


def test_classifier_training_is_seeded_and_its_folder_loads(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_classifier(tmp_path / name, seed=3, epochs=1, quiet=True)
    first, second = DigitClassifier.load(tmp_path / "a"), DigitClassifier.load(tmp_path / "b")
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == [
        "model.json",
        "model.safetensors",
    ]


def test_folder_without_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lacks model\.safetensors and model\.json"):
        DigitClassifier.load(tmp_path)
