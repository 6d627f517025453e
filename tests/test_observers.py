"""What looks at images: against other implementations, on tiny networks with random weights."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from erase.data.pictures import unreadable
from erase.data.prompts import prompts_root
from erase.errors import InputError, RunError
from erase.judges import clip, inception, lpips, zoo
from erase.judges.classifier import NetworkJudge, load_judge
from erase.judges.images import batches, square, to_bytes, to_unit
from erase.judges.zoo import Network, imagenet_classes, network_from
from erase.models.classifiers import Description, build, save_classifier
from erase.scoring.judge import View
from erase.scoring.samples import Sample
from erase.scoring.suite import load_suite
from tests.evaluation_world import pictures


def test_batches_keep_the_order_and_split_by_shape(tmp_path: Path) -> None:
    files = pictures(tmp_path / "a", 5) + pictures(tmp_path / "b", 2, (20, 20))
    found = list(batches(files, to_bytes, 3))
    assert [len(batch) for batch in found] == [3, 2, 2]
    assert found[2].shape == (2, 3, 20, 20)
    again = [to_bytes(Image.open(file).convert("RGB")) for file in files]
    assert all(torch.equal(a, b) for a, b in zip((i for b in found for i in b), again, strict=True))


def test_unreadable_images_are_noticed(tmp_path: Path) -> None:
    file = pictures(tmp_path, 1)[0]
    assert not unreadable(file)
    content = file.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"no image"):
        file.write_bytes(broken)
        assert unreadable(file)
        with pytest.raises(RunError, match=file.name):
            list(batches([file], to_bytes, 1))
    file.unlink()
    assert unreadable(file)


def test_squares_are_centred() -> None:
    wide = Image.fromarray(np.arange(5 * 9 * 3, dtype=np.uint8).reshape(5, 9, 3))
    assert np.array_equal(np.array(square(wide)), np.array(wide)[:, 2:7])


# Inception.


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception v3 with random weights, as torch-fidelity stores it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchvision
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        def random(url: str, **_: Any) -> dict[str, torch.Tensor]:
            raise AssertionError(url)

    assert torchvision
    file = tmp_path_factory.mktemp("inception") / "inception.pth"
    original = FeatureExtractorInceptionV3.load_state_dict
    kept: dict[str, torch.Tensor] = {}

    def keep(self: Any, state: Any, *_: Any, **__: Any) -> None:
        kept.update({k: v.clone() for k, v in self.state_dict().items()})

    torch.save({}, file)
    torch.manual_seed(0)
    FeatureExtractorInceptionV3.load_state_dict = keep
    try:
        FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(file))
    finally:
        FeatureExtractorInceptionV3.load_state_dict = original
    torch.save(kept, file)
    return file


@pytest.mark.parametrize("features", [64, 2048])
def test_fid_from_files_equals_torchmetrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inception_weights: Path, features: int
) -> None:
    """Our features and distance against FrechetInceptionDistance on the same uint8 images."""
    from erase.scoring.frechet import frechet_distance

    monkeypatch.setattr(inception, "find_weights", lambda _: inception_weights)
    ours = inception.Inception(features)
    first = pictures(tmp_path / "a", 6)
    second = pictures(tmp_path / "b", 6, seed=1)
    found = ours.look(View((), first))
    assert found.network == str(features)
    assert found.values.shape == (6, features)
    value = frechet_distance(found.values, ours.values(second))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchmetrics.image.fid import FrechetInceptionDistance

        other = FrechetInceptionDistance(
            feature=features, feature_extractor_weights_path=str(inception_weights)
        )
    for files, real in ((first, False), (second, True)):
        images = [to_bytes(square(Image.open(file).convert("RGB"))) for file in files]
        other.update(torch.stack(images), real=real)
    expected = float(other.compute())
    # torchmetrics keeps sums of squares in float32, and six images leave its roots ill-conditioned.
    assert value == pytest.approx(expected, rel=1e-3)


# CLIP.


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights and SD-1.4's kind of tokenizer, over a handful of words."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTextConfig,
        CLIPTokenizer,
        CLIPVisionConfig,
    )

    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=20
    )
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=20,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    )
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def test_clip_similarity_equals_transformers_logits(
    tmp_path: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import CLIPModel, CLIPProcessor

    monkeypatch.setattr(clip, "BATCH", 2)  # several batches
    files = pictures(tmp_path, 5)
    captions = ["a", "a cat", "the dog", "a b c", "x" * 50]
    samples = [Sample(str(i), text, i) for i, text in enumerate(captions)]
    found = clip.Clip(str(tiny_clip)).look(View(samples, files))
    assert found.network == "tiny_clip"
    assert found.detail == {"captions_cut_at_tokens": 20, "captions_cut": 1}
    model = CLIPModel.from_pretrained(tiny_clip).eval()
    processor = CLIPProcessor.from_pretrained(tiny_clip)
    for index, (file, text) in enumerate(zip(files, captions, strict=True)):
        inputs = processor(
            text=[text],
            images=[Image.open(file)],
            return_tensors="pt",
            truncation=True,
            max_length=20,
        )
        with torch.no_grad():
            output = model(**inputs)
        expected = float(output.logits_per_image[0, 0] / model.logit_scale.detach().exp())
        assert found.values[index] == pytest.approx(expected, abs=1e-6)


def test_clip_model_that_is_not_here_is_one_clear_error(tmp_path: Path) -> None:
    for name in ("no-such-clip", str(tmp_path)):
        with pytest.raises(InputError):
            clip.Clip(name)


# LPIPS.


def test_lpips_equals_torchmetrics_on_the_same_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    torch.manual_seed(0)
    backbone = torchvision.models.alexnet(weights=None)
    monkeypatch.setattr(lpips, "find_weights", lambda _: tmp_path)
    monkeypatch.setattr(lpips, "load_weights", lambda _: backbone.state_dict())
    files = pictures(tmp_path / "a", 3, (64, 64))
    others = pictures(tmp_path / "b", 3, (64, 64), seed=1)
    found = lpips.Lpips("alex").look(View((), files, others))
    assert (lpips.Lpips("alex").look(View((), files, files)).values == 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchmetrics.functional.image.lpips import _LPIPS

        def local(net: str, pretrained: bool = False) -> Any:
            return backbone.features

        monkeypatch.setattr("torchmetrics.functional.image.lpips._get_tv_model_features", local)
        whole = _LPIPS(pretrained=True, net="alex")
    for index, (one, two) in enumerate(zip(files, others, strict=True)):
        pair = [to_unit(Image.open(file))[None] for file in (one, two)]
        expected = float(whole(*pair, normalize=True))
        assert expected > 0
        assert found.values[index] == pytest.approx(expected, rel=1e-5)


# Classifiers.


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    description = Description("cnn", ("cat", "dog", "owl"), 32, (0.5,) * 3, (0.2,) * 3, "toy")
    save_classifier(tmp_path / "model", build(description, seed=3), description)
    return tmp_path / "model"


def test_folder_of_a_trained_classifier_judges(tmp_path: Path, trained: Path) -> None:
    from erase.models.classifiers import load_classifier

    files = pictures(tmp_path / "images", 5, (32, 32))
    judge = load_judge(str(trained), ("owl", "cat"))
    predictions = judge.predict(files)
    assert (predictions.classifier, predictions.classes) == ("cnn_toy", ("cat", "dog", "owl"))
    model, _ = load_classifier(trained)
    images = torch.stack([to_unit(Image.open(file)) for file in files])
    with torch.no_grad():
        expected = model(images).softmax(1).numpy()
        head = model.get_submodule(model.head_name())
        logits = head(torch.from_numpy(predictions.features).float())
    np.testing.assert_allclose(predictions.probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(logits.softmax(1), expected, atol=1e-6)  # the features are its input
    assert judge.fingerprint() == load_judge(str(trained), ("cat",)).fingerprint()
    narrow = load_judge(str(trained), ("owl", "cat"), {"among": "suite"}).predict(files)
    assert narrow.classes == ("owl", "cat")
    np.testing.assert_allclose(
        narrow.probabilities[:, 0] / narrow.probabilities[:, 1],
        expected[:, 2] / expected[:, 0],
        rtol=1e-5,
    )


def test_classes_are_spelled_as_the_suite_does(trained: Path) -> None:
    assert load_judge(str(trained), ("Cat",)).classes == ("Cat", "dog", "owl")
    with pytest.raises(InputError, match="llama"):
        load_judge(str(trained), ("llama",))


def test_weight_file_by_the_name_of_its_architecture(tmp_path: Path) -> None:
    description = Description("resnet20", tuple("abcdefghij"), 32, (0.5,) * 3, (0.2,) * 3, "toy")
    model = build(description, seed=1)
    file = tmp_path / "resnet20-12fca82f.th"
    state = {f"module.{k}".replace("fc.", "linear."): v for k, v in model.net.state_dict().items()}
    torch.save({"state_dict": state}, file)
    network = network_from(str(file), tuple("abcdefghij"))
    images = torch.rand(2, 3, 32, 32)
    weights = {k: v for k, v in network.net.state_dict().items() if k.endswith("fc.weight")}
    (weight,) = weights.values()
    assert torch.equal(weight, model.state_dict()["net.fc.weight"])
    assert network.net(images).shape == (2, 10)
    with pytest.raises(InputError, match="classes"):
        network_from(str(file), ())
    strange = tmp_path / "mystery.pth"
    torch.save(state, strange)
    with pytest.raises(InputError, match="architecture"):
        network_from(str(strange), tuple("ab"))


def test_torchvision_weight_file_judges_imagenet(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.shufflenet_v2_x0_5(weights=None)
    file = tmp_path / "shufflenet_v2_x0_5-random.pth"
    torch.save(net.state_dict(), file)
    files = pictures(tmp_path / "images", 2, (64, 64))
    judge = load_judge(str(file), ("tench", "english Springer"))
    predictions = judge.predict(files)
    assert predictions.probabilities.shape == (2, 1000)
    assert (predictions.classes[0], predictions.classes[217]) == ("tench", "english Springer")
    transform = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()
    with torch.no_grad():
        expected = net.eval()(torch.stack([transform(Image.open(f)) for f in files])).softmax(1)
    np.testing.assert_allclose(predictions.probabilities, expected, atol=2e-3)
    torch.save({"fc.weight": torch.zeros(1)}, file)
    with pytest.raises(InputError, match="fit"):
        network_from(str(file), ())


def test_timm_model_is_taken_as_timm_prepares_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    net.append(torch.nn.Linear(12, 1000))
    net.num_classes = 1000  # type: ignore[assignment]
    stub = SimpleNamespace(
        list_models=lambda: ["tiny_net"],
        create_model=lambda name, pretrained: net,
        data=SimpleNamespace(
            resolve_model_data_config=lambda model: {},
            create_transform=lambda **_: to_unit,
        ),
    )
    monkeypatch.setattr(zoo, "_package", lambda name: stub if name == "timm" else None)
    judge = NetworkJudge(network_from("timm:tiny_net", ()), ("golf ball",))
    predictions = judge.predict(pictures(tmp_path, 2))
    assert predictions.classes[574] == "golf ball"
    assert predictions.probabilities.sum(axis=1) == pytest.approx([1, 1])


def test_imagenet_names_are_distinct() -> None:
    names = imagenet_classes()
    assert len(set(names)) == len(names) == 1000
    suite = load_suite("imagenette")
    for name in suite.classes(prompts_root(None)):
        assert name in names


def test_unknown_classifier_lists_the_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "_package", lambda _: None)
    with pytest.raises(InputError, match="resnet5") as caught:
        network_from("resnet5", ())
    assert "erase train classifier" in caught.value.remedy
    with pytest.raises(InputError) as caught:
        network_from("efficientnet-lite0", ())
    assert "pip install" in caught.value.remedy


def test_a_network_without_linear_layers_is_refused(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    network = Network("pool", net, ("r", "g", "b"), to_unit, "0", "")
    with pytest.raises(InputError, match="linear"):
        NetworkJudge(network, ()).predict(pictures(tmp_path, 1))
