"""Image folders: captions, sizes, broken files."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from erase.data.captioned import load_image, read_folder, write_captions
from erase.errors import InputError


def image(path: Path, size: tuple[int, int] = (40, 32), colour: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 0, 0)).save(path)


def test_captions_from_each_source(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png", "c.png"):
        image(tmp_path / name)
    write_captions(tmp_path, {"sub/b.png": "listed"})
    (tmp_path / "c.txt").write_text("beside\n")
    found = read_folder(tmp_path, ("default",))
    assert [path.name for path in found.paths] == ["a.png", "c.png", "b.png"]
    assert found.captions == ("default", "beside", "listed")


def test_several_prompts_cannot_be_guessed(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    with pytest.raises(InputError, match="has no caption"):
        read_folder(tmp_path, ("one", "two"))


def test_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        read_folder(tmp_path / "absent", ("p",))
    with pytest.raises(InputError, match="holds no image"):
        read_folder(tmp_path, ("p",))
    image(tmp_path / "a.png")
    write_captions(tmp_path, {"gone.png": "x"})
    with pytest.raises(InputError, match="which is not there"):
        read_folder(tmp_path, ("p",))


def test_load_image_range_and_shape(tmp_path: Path) -> None:
    image(tmp_path / "a.png", (80, 64))
    loaded = load_image(tmp_path / "a.png", 32)
    assert loaded.shape == (3, 32, 32)
    assert loaded[0].eq(1).all()
    assert loaded[1:].eq(-1).all()
    assert loaded.dtype == torch.float32


def test_broken_image_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    image(broken)
    broken.write_bytes(broken.read_bytes()[:50])
    with pytest.raises(InputError, match=r"broken\.png is not a readable image"):
        load_image(broken, 32)


def test_an_image_too_large_to_be_meant_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"bomb\.png is not a readable image \(Decompression"):
        load_image(tmp_path / "bomb.png", 32)


def test_an_image_with_impossible_values_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("buffer is not large enough")

    image(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(InputError, match=r"a\.png is not a readable image"):
        load_image(tmp_path / "a.png", 32)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"caf\xe9", r"a\.txt cannot be read as text"),
        (
            "metadata.jsonl",
            b'{"file_name": "caf\xe9"}\n',
            r"metadata\.jsonl cannot be read as text",
        ),
        ("metadata.jsonl", b'["a.png", "x"]\n', r"metadata\.jsonl, row 1"),
        ("metadata.jsonl", b'{"file_name": "a.png"}\n"a.png"\n', r"metadata\.jsonl, row 2"),
        ("metadata.jsonl", b'{"text": "x"}\n', r"metadata\.jsonl, row 1"),
        ("metadata.jsonl", b'{"file_name": ["a.png"]}\n', r"metadata\.jsonl, row 1"),
        ("metadata.jsonl", b'{"file_name": "a.png", "text": 3}\n', r"metadata\.jsonl, row 1"),
    ],
)
def test_unusable_captions_name_their_file(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    image(tmp_path / "a.png")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_folder(tmp_path, ("one",))
