"""Picture files as people have them: each is read as a viewer shows it, or named."""

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from erase.data.captioned import check_readable, load_image, read_folder
from erase.data.classes import read_class_folder
from erase.data.classification import load_dataset
from erase.data.pictures import list_pictures, read_picture, unreadable
from erase.errors import InputError, RunError
from erase.judges.images import read_rgb
from erase.judges.reference import real_images
from erase.report.pictures import picture

# Left to right: black, a middle grey, white; below it red, green, blue.
GREYS = np.array([[0, 128, 255], [64, 200, 255]], np.uint8)
COLOURS = np.dstack([GREYS, GREYS[::-1], 255 - GREYS])
HALF = np.array([[0, 128, 255], [0, 255, 255]], np.uint8)  # an alpha channel


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


def grey(values: np.ndarray = GREYS) -> np.ndarray:
    return np.dstack([values] * 3)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def palette(transparent: bool) -> bytes:
    image = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    return saved(image, transparency=1) if transparent else saved(image)


PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]])[[[0, 1, 2], [2, 1, 0]]]
CLEARED = np.array([[255, 0, 0], [255, 255, 255], [0, 0, 255]])[[[0, 1, 2], [2, 1, 0]]]
WIDE = GREYS.astype(np.uint16) * 257
TURNED = {1: 0, 3: 2, 6: 3, 8: 1}  # EXIF's orientation: quarter turns to the left


def oriented(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(COLOURS), kind, exif=exif, lossless=True, quality=100)


def upright(orientation: int) -> np.ndarray:
    mirrored = COLOURS[:, ::-1]
    return {
        2: mirrored,
        4: COLOURS[::-1],
        5: COLOURS.transpose(1, 0, 2),
        7: mirrored[::-1].transpose(1, 0, 2),
        **{key: np.rot90(COLOURS, turns) for key, turns in TURNED.items()},
    }[orientation]


def frames(kind: str) -> bytes:
    others = [Image.new("RGB", (3, 2), "red")]
    return saved(Image.fromarray(COLOURS), kind, save_all=True, append_images=others, lossless=True)


def cmyk() -> bytes:
    return saved(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), "TIFF")


FILES: dict[str, tuple[bytes, np.ndarray]] = {
    "1.png": (saved(Image.fromarray(GREYS > 100)), grey(np.where(GREYS > 100, 255, 0))),
    "grey.png": (saved(Image.fromarray(GREYS)), grey()),
    "grey.tif": (saved(Image.fromarray(GREYS), "TIFF"), grey()),
    "grey.pgm": (saved(Image.fromarray(GREYS), "PPM"), grey()),
    "grey16.png": (saved(Image.fromarray(WIDE)), grey()),
    "grey16.tif": (saved(Image.fromarray(WIDE), "TIFF"), grey()),
    "grey16.pgm": (b"P5 3 2 65535\n" + WIDE.astype(">u2").tobytes(), grey()),
    "grey16-clear.png": (
        saved(Image.fromarray(WIDE), transparency=int(WIDE[0, 1])),
        grey(np.where(GREYS == 128, 255, GREYS)),
    ),
    "int32.tif": (saved(Image.fromarray(WIDE.astype(np.int32)), "TIFF"), grey()),
    "float.tif": (saved(Image.fromarray((GREYS / 255).astype(np.float32)), "TIFF"), grey()),
    "float255.tif": (saved(Image.fromarray(GREYS.astype(np.float32)), "TIFF"), grey()),
    "grey-alpha.png": (
        saved(Image.fromarray(np.dstack([GREYS, HALF]))),
        on_white(grey(), HALF),
    ),
    "rgb.png": (saved(Image.fromarray(COLOURS)), COLOURS),
    "rgb.bmp": (saved(Image.fromarray(COLOURS), "BMP"), COLOURS),
    "rgb.webp": (saved(Image.fromarray(COLOURS), "WEBP", lossless=True), COLOURS),
    "rgb.tiff": (saved(Image.fromarray(COLOURS), "TIFF", compression="tiff_lzw"), COLOURS),
    "a JPEG.PNG": (
        saved(Image.new("RGB", (3, 2), (90, 90, 90)), "JPEG"),
        np.full((2, 3, 3), 90),
    ),
    "grey.jfif": (saved(Image.new("L", (3, 2), 77), "JPEG"), np.full((2, 3, 3), 77)),
    "grey.avif": (
        saved(Image.new("RGB", (3, 2), (77, 77, 77)), "AVIF", quality=100),
        np.full((2, 3, 3), 77),
    ),
    "rgba.png": (saved(Image.fromarray(np.dstack([COLOURS, HALF]))), on_white(COLOURS, HALF)),
    "rgba.webp": (
        saved(Image.fromarray(np.dstack([COLOURS, HALF])), "WEBP", lossless=True, exact=True),
        on_white(COLOURS, HALF),
    ),
    "rgba.tif": (
        saved(Image.fromarray(np.dstack([COLOURS, HALF])), "TIFF"),
        on_white(COLOURS, HALF),
    ),
    "rgb-clear.png": (
        saved(Image.fromarray(COLOURS), transparency=tuple(map(int, COLOURS[0, 0]))),
        np.where((COLOURS[0, 0] == COLOURS).all(-1, keepdims=True), 255, COLOURS),
    ),
    "palette.png": (palette(False), PALETTE),
    "palette-clear.png": (palette(True), CLEARED),
    "moving.gif": (frames("GIF"), COLOURS),
    "moving.webp": (frames("WEBP"), COLOURS),
    "pages.tif": (frames("TIFF"), COLOURS),
    "moving.apng": (frames("PNG"), COLOURS),
    "cmyk.tif": (cmyk(), np.full((2, 3, 3), (255, 0, 0))),
    "cmyk.jpg": (
        saved(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), "JPEG", quality=100),
        np.full((2, 3, 3), (255, 0, 0)),
    ),
    **{f"turned{n}.png": (oriented(n, "PNG"), upright(n)) for n in range(1, 9)},
    **{f"turned{n}.tif": (oriented(n, "TIFF"), upright(n)) for n in (3, 6, 8)},
    **{f"turned{n}.webp": (oriented(n, "WEBP"), upright(n)) for n in (3, 6, 8)},
}


@pytest.mark.fault("picture of another kind")
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_picture_is_read_as_a_viewer_shows_it(tmp_path: Path, name: str) -> None:
    content, shown = FILES[name]
    file = tmp_path / name
    file.write_bytes(content)
    image = read_picture(file)
    assert image.mode == "RGB"
    assert image.size == (shown.shape[1], shown.shape[0])
    assert np.abs(np.asarray(image).astype(float) - shown).max() <= 2
    assert list_pictures(tmp_path).pictures == (file,)
    # Every way in reads the same.
    for other in (read_rgb(file), picture(file)[0]):
        assert other is not None
        assert np.array_equal(np.asarray(other), np.asarray(image))
    side = min(image.size)
    whole = load_image(file, side)
    assert whole.shape == (3, side, side)
    if image.size == (side, side):
        assert torch.equal(
            ((whole + 1) / 2 * 255).round().byte(), torch.from_numpy(np.array(image))
        )


@pytest.mark.fault("picture of another kind")
def test_an_orientation_turns_a_jpeg_everywhere(tmp_path: Path) -> None:
    halves = np.zeros((32, 64, 3), np.uint8)
    halves[:, 32:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(5):
            file = tmp_path / label / f"{number}.jpg"
            Image.fromarray(halves).save(file, exif=exif, quality=95)
    assert read_picture(file).size == (32, 64)
    data = load_dataset("folder", tmp_path, image_size=14)
    first = data.train.images[0].float().mean(0)
    assert first[:4].mean() < 20  # the left half is on top
    assert first[-4:].mean() > 235


@pytest.mark.fault("picture of another kind")
def test_a_colour_profile_is_applied_and_a_broken_one_passed_over(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4), (200, 60, 60))
    file = tmp_path / "profile.png"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile", srgb[:200]):
        image.save(file, icc_profile=profile)
        assert read_picture(file).getpixel((0, 0)) == (200, 60, 60)
    # The same profile with a red that lies elsewhere: the colour changes.
    place = srgb.index(b"rXYZ") + 4
    offset = struct.unpack(">I", srgb[place : place + 4])[0] + 8
    moved = bytearray(srgb.replace(b"s\0R\0G\0B", b"o\0t\0h\0e").replace(b"sRGB", b"othe"))
    moved[offset : offset + 12] = struct.pack(">3i", *(int(v * 65536) for v in (0.6, 0.3, 0.02)))
    image.save(file, icc_profile=bytes(moved))
    assert read_picture(file).getpixel((0, 0)) != (200, 60, 60)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def bomb() -> bytes:
    """A PNG that says it has 30,000 by 30,000 pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 9000)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def large() -> Image.Image:
    draw = np.random.default_rng(0)
    return Image.fromarray(draw.integers(0, 256, (48, 64, 3), dtype=np.uint8))


def cut(kind: str, share: float) -> bytes:
    content = saved(large(), kind)
    return content[: int(len(content) * share)]


def flipped(content: bytes) -> bytes:
    middle = content.index(b"IDAT") + 200
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


BROKEN: dict[str, Callable[[], bytes]] = {
    **{
        f"cut.{suffix}": partial(cut, kind, share)
        for suffix, kind, share in [
            ("png", "PNG", 0.5),
            ("jpg", "JPEG", 0.5),
            ("bmp", "BMP", 0.7),
            ("webp", "WEBP", 0.6),
            ("gif", "GIF", 0.5),
            ("tif", "TIFF", 0.5),
            ("ppm", "PPM", 0.5),
            ("avif", "AVIF", 0.6),
        ]
    },
    "last-byte.jpg": lambda: saved(large(), "JPEG")[:-60],
    "flipped.png": lambda: flipped(saved(large())),
    "empty.png": lambda: b"",
    "text.jpg": lambda: b"<html>404 Not Found</html>",
    "header.png": lambda: saved(large())[:20],
    "bomb.png": bomb,
    "float.tif": lambda: saved(Image.new("F", (2, 2), 1e9), "TIFF"),
    "nan.tif": lambda: saved(Image.new("F", (2, 2), float("nan")), "TIFF"),
    "int32.tif": lambda: saved(Image.new("I", (2, 2), -5), "TIFF"),
    "script.png": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
}


def write_broken(file: Path) -> None:
    file.write_bytes(BROKEN[file.name]())


@pytest.mark.fault("damaged picture")
@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_damaged_picture_is_named_by_every_reader(tmp_path: Path, name: str) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(5):
            large().save(tmp_path / label / f"{number}.png")
    file = tmp_path / "a" / name
    write_broken(file)
    assert unreadable(file)
    with pytest.raises(InputError, match=name) as caught:
        check_readable(read_folder(tmp_path, ("a prompt",)))
    assert "\n" not in caught.value.message
    with pytest.raises(InputError, match=name):
        load_dataset("folder", tmp_path, image_size=8)
    with pytest.raises(RunError, match=name):
        read_rgb(file)
    assert picture(file) == (None, False)
    found = real_images(tmp_path, ("a", "b"), {})
    assert found.broken == (f"a/{name}",)
    assert name in found.describe()
    assert len(found.files) == 10


@pytest.mark.fault("no regular file")
@pytest.mark.parametrize("kind", ["pipe", "device", "dangling link", "folder", "forbidden loop"])
def test_what_is_no_regular_file_is_named_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.png"
    large().save(tmp_path / "b.png")
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "dangling link":
        file.symlink_to(tmp_path / "gone.png")
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to(file)
    with pytest.raises(InputError, match=r"a\.png"):
        read_picture(file)
    assert picture(file) == (None, False)
    if kind == "folder":
        assert len(read_folder(tmp_path, ("x",)).paths) == 1
        return
    with pytest.raises(InputError, match=r"a\.png"):
        check_readable(read_folder(tmp_path, ("x",)))


@pytest.mark.fault("stray file in an image folder")
def test_hidden_copies_are_left_out_and_strays_are_named(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for name in ("0.png", "._0.png", ".ipynb_checkpoints/0.png", "__MACOSX/0.png"):
            file = tmp_path / label / name
            file.parent.mkdir(parents=True, exist_ok=True)
            large().save(file)
        (tmp_path / label / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (tmp_path / label / "Thumbs.db").write_bytes(b"x")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for number in range(1, 5):
        for label in ("a", "b"):
            large().save(tmp_path / label / f"{number}.GIF")
    (tmp_path / "a" / "0.heic").write_bytes(b"ftypheic")
    (tmp_path / "a" / "notes").write_bytes(b"?")
    (tmp_path / "a" / "about.md").write_text("no picture, and nothing to say of it")
    images = read_folder(tmp_path, ("x",))
    assert len(images.paths) == 10
    assert images.notes == (f"in {tmp_path}, read as no image: a/0.heic, a/notes",)
    tree = read_class_folder(tmp_path, ())
    assert tree.classes.names == ("a", "b")
    assert [len(files) for files in tree.files] == [5, 5]
    assert tree.notes == (f"in {tmp_path}, left out: a/0.heic, a/notes",)
    found = real_images(tmp_path, ("a", "b"), {})
    assert (len(found.files), found.broken) == (10, ("a/0.heic", "a/notes"))
    assert "a/0.heic" in found.describe()


@pytest.mark.fault("stray file in an image folder")
def test_strays_of_a_classifiers_folder_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(5):
            large().save(tmp_path / label / f"{number}.tiff")
    large().save(tmp_path / "overview.png")
    (tmp_path / "b" / "9.svg").write_text("<svg/>")
    assert len(load_dataset("folder", tmp_path, image_size=8).train) == 8
    assert f"in {tmp_path}, left out: overview.png, b/9.svg" in capsys.readouterr().err
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "0.heic").write_bytes(b"ftypheic")
    with pytest.raises(InputError, match=r"c holds no image .*0\.heic"):
        load_dataset("folder", tmp_path, image_size=8)


@pytest.mark.fault("damaged picture")
def test_a_reference_of_one_image_is_refused_at_once(tmp_path: Path) -> None:
    for name in ("0.png", "1.png"):
        large().save(tmp_path / name)
    assert len(real_images(tmp_path, (), {}).files) == 2
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="a single image"):
        real_images(tmp_path, (), {})


def test_a_large_photograph_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # of 3072: Pillow warns only
    large().save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        assert read_picture(tmp_path / "a.png").size == (64, 48)
