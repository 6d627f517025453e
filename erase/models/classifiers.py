"""Classifiers by architecture name, saved as `model.safetensors` and `model.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from erase.artifacts.network import connection_failure
from erase.config.limits import PIXELS
from erase.core.rng import derive_seed
from erase.errors import InputError
from erase.files import read_json, write_bytes, write_json
from erase.models.weights import check_finite, read_state_dict
from erase.runs.manifest import check
from erase.runs.unfinished import check_finished

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
SMALL_IMAGE = 64  # up to this size ResNets get a 3 x 3 stem without pooling, as is usual


@dataclass(frozen=True)
class Description:
    """Everything that is needed to build a classifier again and to use it correctly."""

    arch: str
    classes: tuple[str, ...]
    image_size: Annotated[int, Meta(ge=1, le=PIXELS)]
    """Pixels a side that the model takes."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""
    dataset: str
    data_dir: str | None = None
    limit: int | None = None
    images_per_class: Annotated[int, Meta(ge=1)] | None = None
    crop_padding: Annotated[int, Meta(ge=0, le=PIXELS)] | None = None
    follow_links: bool | None = None
    """Whether links may lead out of `data_dir`."""
    data_sha256: str | None = None
    """Of all images and labels that the model was trained and tested with."""
    validation: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    """Indices of the training set that the model was not trained on."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Other facts: accuracies, seed, what the model was made from."""


class Classifier(nn.Module):
    """A network that normalises its input: images `[B, 3, H, W]` in [0, 1] → logits `[B, K]`."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        # Constants, not weights: they are in model.json.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images in [0, 1]."""
        logits: Tensor = self.net((images - self.mean) / self.std)
        return logits

    def head_name(self) -> str:
        """Full name of the last linear layer."""
        names: list[str] = [
            name for name, layer in self.named_modules() if isinstance(layer, nn.Linear)
        ]
        if not names:
            raise InputError("This classifier has no linear layer.", "Choose another --arch.")
        return names[-1]

    def penultimate(self) -> Tensor | None:
        """Weight of the last convolution (figure 3A's layer); None in a net without one."""
        convolutions = [layer for layer in self.modules() if isinstance(layer, nn.Conv2d)]
        return convolutions[-1].weight if convolutions else None


class SmallCNN(nn.Module):
    """Three convolutions with batch statistics, 24,000 weights: for small images on a CPU."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer1 = _conv_block(3, 16, 2)
        self.layer2 = _conv_block(16, 32, 2)
        self.layer3 = _conv_block(32, 64, 1)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, K]`."""
        logits: Tensor = self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))
        return logits


def _conv_block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class SmoothCNN(nn.Module):
    """Four convolutions with GELU, 262,000 weights: 16 × 16 images of things, on a CPU.

    Its loss has no kinks, and no sample's output depends on the others in the batch.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = ((3, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1))
        self.layers = nn.Sequential(*(_smooth_block(*width) for width in widths))
        self.fc = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, K]`."""
        logits: Tensor = self.fc(self.layers(x).mean((2, 3)))
        return logits


def _smooth_block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.GroupNorm(outputs // 8, outputs),
        nn.GELU(),
    )


class _Basic(nn.Module):
    """A residual block whose shortcut has no weights: subsampled and padded with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """The block's activations."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(short, (0, 0, 0, 0, self.extra, self.extra)))


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    further = [_Basic(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(_Basic(inputs, outputs, stride), *further)


class CifarResNet(nn.Module):
    """He et al.'s ResNets for CIFAR (section 4.2) of 6n + 2 layers, with option A shortcuts."""

    def __init__(self, depth: int, classes: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, blocks)
        self.layer2 = _stage(16, 32, 2, blocks)
        self.layer3 = _stage(32, 64, 2, blocks)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, K]`."""
        y = F.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3):
            y = stage(y)
        logits: Tensor = self.fc(y.mean((2, 3)))
        return logits


OWN = ("cnn", "cnn-gelu", "resnet20", "resnet56")


def build(description: Description, *, seed: int = 0, pretrained: bool = False) -> Classifier:
    """Build a freshly initialised classifier.

    Args:
        description: architecture, classes and normalisation.
        seed: of the initial weights.
        pretrained: start from torchvision's ImageNet weights (downloaded when not in its cache).

    Raises:
        InputError: the architecture is unknown, or there are no pretrained weights.
    """
    arch, classes = description.arch, len(description.classes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "build"))
        net: nn.Module
        if arch == "cnn":
            net = SmallCNN(classes)
        elif arch == "cnn-gelu":
            net = SmoothCNN(classes)
        elif arch in OWN:
            net = CifarResNet(int(arch.removeprefix("resnet")), classes)
        else:
            net = _torchvision(arch, classes, description.image_size, pretrained)
    if pretrained and arch in OWN:
        raise InputError(f"There are no ImageNet weights of {arch}.", "Leave --pretrained out.")
    return Classifier(net, description.mean, description.std)


def _torchvision(arch: str, classes: int, image_size: int, pretrained: bool) -> nn.Module:
    from torchvision import models

    if arch not in models.list_models(module=models):
        raise InputError(
            f"There is no classifier {arch!r}.",
            f"Use {', '.join(OWN)}, resnet18, resnet34, resnet50 or another of torchvision's.",
        )
    if pretrained:
        net: nn.Module = models.get_model(arch, weights=None)
        net.load_state_dict(_imagenet_weights(models.get_model_weights(arch).DEFAULT))
        _replace_head(net, classes)
    else:
        net = models.get_model(arch, weights=None, num_classes=classes)
    if arch.startswith("resnet") and image_size <= SMALL_IMAGE:
        net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        net.maxpool = nn.Identity()
    return net


def _imagenet_weights(weights: Any) -> Mapping[str, Tensor]:
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        if not file.is_file() and (why := connection_failure(weights.url)):
            raise OSError(f"no network: {why}")
        state: Mapping[str, Tensor] = torch.hub.load_state_dict_from_url(
            weights.url, map_location="cpu", check_hash=True, weights_only=True, progress=False
        )
    except OSError as error:
        raise InputError(
            f"{weights.url} cannot be reached ({error}).",
            f"Put the file into {torch.hub.get_dir()}/checkpoints, or leave --pretrained out.",
        ) from error
    return state


def _replace_head(net: nn.Module, classes: int) -> None:
    name = [name for name, layer in net.named_modules() if isinstance(layer, nn.Linear)][-1]
    parent, _, attribute = name.rpartition(".")
    head = net.get_submodule(name)
    assert isinstance(head, nn.Linear)
    setattr(net.get_submodule(parent), attribute, nn.Linear(head.in_features, classes))


def save_classifier(folder: Path, model: Classifier, description: Description) -> None:
    """Write weights and description into a folder; RunError when a weight is not finite."""
    tensors = {k: t.detach().cpu().contiguous() for k, t in model.state_dict().items()}
    check_finite(tensors, WEIGHTS)
    write_bytes(folder / WEIGHTS, save(tensors))
    write_json(folder / DESCRIPTION, asdict(description))


def load_classifier(folder: Path) -> tuple[Classifier, Description]:
    """Read what `save_classifier` wrote, in evaluation mode, on the CPU.

    Raises:
        InputError: the folder is no classifier, or its weights do not fit its description.
    """
    check_finished(folder)
    description = read_json(folder / DESCRIPTION, Description)
    try:
        if len(set(description.classes)) != len(description.classes) or not description.classes:
            raise ValueError("the classes are not distinct names")
        _check_normalization(description.mean, description.std)
    except ValueError as error:
        raise InputError(
            f"{folder / DESCRIPTION} does not describe a classifier ({error}).",
            "Give the output folder of `erase train classifier` or `erase classifier`.",
        ) from error
    check(folder, WEIGHTS, DESCRIPTION)
    model = build(description)
    try:
        _load_strictly(model, load_file(folder / WEIGHTS), folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{folder / WEIGHTS} is broken ({error}).", "Train again.") from error
    return model.eval(), description


def import_weights(model: Classifier, description: Description, path: Path) -> Description:
    """Load another program's state dict (.pth, .th or .safetensors) into the network.

    Accepts what `read_state_dict` does, `linear` for the head's name, and the buffers
    `normalize.mean` and `normalize.std` of a network that normalises its own input. They replace
    the description's normalisation.

    Returns:
        The description with the normalisation that the weights are for.

    Raises:
        InputError: the file is no state dict, or not one of this architecture.
    """
    state = read_state_dict(path)
    own = [state.pop(f"normalize.{name}", None) for name in ("mean", "std")]
    mean, std = (None if t is None else tuple(t.double().flatten().tolist()) for t in own)
    if mean is not None and std is not None:
        try:
            _check_normalization(mean, std)
        except ValueError as error:
            raise InputError(
                f"{path}: normalize.mean and normalize.std do not fit: {error}.",
                "Leave them out of the file, or correct them.",
            ) from error
        description = replace(description, mean=mean, std=std)
        model.mean.copy_(torch.tensor(mean).view_as(model.mean))
        model.std.copy_(torch.tensor(std).view_as(model.std))
    tensors = {f"net.{name.replace('linear.', 'fc.')}": tensor for name, tensor in state.items()}
    for key, tensor in model.state_dict().items():
        if key.endswith("num_batches_tracked"):  # unknown to files from before PyTorch 0.4.1
            tensors.setdefault(key, tensor)
    _load_strictly(model, tensors, path)
    return description


def _check_normalization(mean: Sequence[float], std: Sequence[float]) -> None:
    """ValueError unless mean and standard deviation are of three channels in [0, 1]."""
    if not len(mean) == len(std) == 3:
        raise ValueError("three channels are needed")
    if not all(0 <= m <= 1 for m in mean) or not all(0 < s <= 1 for s in std):
        raise ValueError("pixels in [0, 1] are expected")


def _load_strictly(model: Classifier, tensors: Mapping[str, Tensor], path: Path) -> None:
    expected = model.state_dict()
    differing = sorted(
        (set(expected) ^ set(tensors))
        | {k for k in set(expected) & set(tensors) if expected[k].shape != tensors[k].shape}
    )
    if differing:
        raise InputError(
            f"{path} does not fit this classifier:"
            f" {differing[0]} and {len(differing) - 1} more differ.",
            "Check --arch and the number of classes.",
        )
    if not all(math.isfinite(float(t.float().sum())) for t in tensors.values()):
        raise InputError(f"{path} holds values that are not finite.", "Train again.")
    model.load_state_dict(dict(tensors))
