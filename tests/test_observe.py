"""References of real images, and what is refused before anything is rendered."""

from pathlib import Path
from typing import Any

import pytest

from erase.data.prompts import prompts_root
from erase.errors import InputError
from erase.evaluation.observe import find_observers
from erase.evaluation.protocols import change, find_protocol
from erase.judges.reference import real_images
from erase.scoring.suite import load_suite
from tests.evaluation_world import pictures


def test_reference_folders_are_classes_by_name_or_alias(tmp_path: Path) -> None:
    pictures(tmp_path / "n03445777", 2)
    pictures(tmp_path / "French_Horn" / "deep", 3)
    pictures(tmp_path / "llama", 1)
    (tmp_path / "n03445777" / "broken.png").write_bytes(b"no image")
    (tmp_path / "n03445777" / "notes.txt").write_text("not counted")
    found = real_images(tmp_path, ("golf ball", "French horn"), {"n03445777": "golf ball"})
    assert sorted(found.labels) == ["French horn"] * 3 + ["golf ball"] * 2
    assert found.broken == ("n03445777/broken.png",)
    assert found.ignored == ("llama",)
    assert "cannot be read: n03445777/broken.png" in found.describe()
    assert found.facts()["images"] == 5
    whole = real_images(tmp_path, (), {})
    assert set(whole.labels) == {""}
    assert len(whole.files) == 6
    before = found.fingerprint()
    pictures(tmp_path / "n03445777", 1, seed=5)
    assert found.fingerprint() != before


def test_reference_that_cannot_be_used_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        real_images(tmp_path / "no", (), {})
    with pytest.raises(InputError, match="no image"):
        real_images(tmp_path, (), {})
    pictures(tmp_path / "llama", 1)
    with pytest.raises(InputError, match="no subfolder"):
        real_images(tmp_path, ("cat",), {})
    pictures(tmp_path / "cat", 1)
    pictures(tmp_path, 1)
    with pytest.raises(InputError, match="beside"):
        real_images(tmp_path, ("cat",), {})


@pytest.mark.parametrize(
    ("suite", "changes", "options", "said"),
    [
        ("imagenette", {"metrics": ["ua"], "classifier": "efficientnet-lite0"}, {}, "--target"),
        ("cifar10", {"metrics": ["ra"]}, {}, "--classifier"),
        ("coco", {"metrics": ["fid"]}, {}, "--reference"),
        ("digits", {"metrics": ["kid"]}, {}, "--reference"),
        ("digits", {"metrics": ["lpips"]}, {}, "--baseline"),
        ("digits", {"metrics": ["ra"]}, {"reference": "."}, "--reference"),
        ("digits", {"metrics": ["clip"], "settings": ["clip.model=no-clip"]}, {}, "no-clip"),
    ],
)
def test_what_is_missing_is_said_at_once(
    tmp_path: Path, suite: str, changes: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    module = load_suite(suite)
    protocol = change(module, find_protocol(module, "default"), **changes)
    prompts = prompts_root(None)
    with pytest.raises(InputError) as caught:
        find_observers(module, protocol, prompts, **options)
    assert said in f"{caught.value.message} {caught.value.remedy}"


@pytest.mark.parametrize(
    ("suite", "changes"),
    [
        ("imagenette", {"metrics": ["ra"]}),
        ("coco", {"metrics": ["kid"]}),
        ("coco", {"metrics": ["clip"]}),
        ("coco", {"metrics": ["lpips"]}),
    ],
)
def test_missing_weights_name_the_file_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: str, changes: dict[str, Any]
) -> None:
    for name in ("HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME", "HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    module = load_suite(suite)
    protocol = change(module, find_protocol(module, "default"), **changes)
    with pytest.raises(InputError) as caught:
        find_observers(module, protocol, prompts_root(None), baseline=True)
    assert "erase fetch" in caught.value.remedy
