"""Captions and prompt files as people write them: read, or refused with the line."""

import gzip
import json
import unicodedata
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from erase.config.concept import ConceptConfig
from erase.data import texts
from erase.data.captioned import read_folder
from erase.data.prompts import read_class_list
from erase.data.texts import read_prompts
from erase.errors import InputError
from erase.reading import SMALL
from erase.training.validation import validation_prompts

BOM = b"\xef\xbb\xbf"


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)


def line(name: str, **more: object) -> bytes:
    return json.dumps({"file_name": name, **more}).encode() + b"\n"


CAPTIONS: dict[str, tuple[dict[str, bytes], str]] = {
    "text with a mark": ({"0.txt": BOM + b"own\n"}, "own"),
    "UTF-16 text": ({"0.txt": "own é".encode("utf-16")}, "own é"),
    "caption": ({"0.caption": b"own"}, "own"),
    "capitals": ({"0.TXT": b"own"}, "own"),
    "whole name": ({"0.png.txt": b"own"}, "own"),
    "list": ({"metadata.jsonl": line("0.png", text="own")}, "own"),
    "list with a mark": ({"metadata.jsonl": BOM + line("0.png", text="own")}, "own"),
    "Windows line ends": ({"metadata.jsonl": line("0.png", text="own")[:-1] + b"\r\n"}, "own"),
    "key caption": ({"metadata.jsonl": line("0.png", caption="own")}, "own"),
    "key prompt": ({"metadata.jsonl": line("0.png", prompt="own", width=8)}, "own"),
    "dot slash": ({"metadata.jsonl": line("./0.png", text="own")}, "own"),
    "there and back": ({"metadata.jsonl": line("sub/../0.png", text="own")}, "own"),
    "no line end": ({"metadata.jsonl": line("0.png", text="own").strip()}, "own"),
    "table": ({"metadata.csv": b"file_name,text\n0.png,own\n"}, "own"),
    "table of Excel": ({"metadata.csv": BOM + b"file_name;caption\r\n0.png;own\r\n"}, "own"),
    "capital table": ({"METADATA.CSV": b'file_name,text\n0.png,"own"\n'}, "own"),
    "null, then text": ({"metadata.jsonl": line("0.png", text=None), "0.txt": b"own"}, "own"),
    "name alone": ({"metadata.jsonl": line("0.png")}, "general"),
    "empty cell": ({"metadata.csv": b"file_name,text\n0.png,\n"}, "general"),
    "nothing": ({}, "general"),
}


@pytest.mark.fault("captions of another kind")
@pytest.mark.parametrize("name", sorted(CAPTIONS))
def test_own_captions_are_read(tmp_path: Path, name: str) -> None:
    files, caption = CAPTIONS[name]
    image(tmp_path / "0.png")
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    found = read_folder(tmp_path, ("general",))
    assert found.captions == (caption,)
    assert found.notes == ()


@pytest.mark.fault("captions of another kind")
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_may_be_decomposed(tmp_path: Path, form: Literal["NFC", "NFD"]) -> None:
    image(tmp_path / unicodedata.normalize("NFD", "é.png"))
    image(tmp_path / unicodedata.normalize("NFC", "ö.png"))
    names = [unicodedata.normalize(form, name) for name in ("é.png", "ö.png")]
    (tmp_path / "metadata.jsonl").write_bytes(b"".join(line(name, text="own") for name in names))
    assert read_folder(tmp_path, ("general",)).captions == ("own", "own")


@pytest.mark.fault("captions of another kind")
def test_nested_lists_name_files_from_where_they_lie(tmp_path: Path) -> None:
    for name in ("a/0.png", "b/0.png", "c/deep/0.png"):
        image(tmp_path / name)
    (tmp_path / "a" / "metadata.jsonl").write_bytes(line("0.png", text="of a"))
    (tmp_path / "b" / "metadata.csv").write_text("file_name,text\n./0.png,of b\n")
    (tmp_path / "metadata.jsonl").write_bytes(line("c\\deep\\0.png", text="of c"))
    found = read_folder(tmp_path, ("general",))
    assert found.captions == ("of a", "of b", "of c")
    (tmp_path / "metadata.jsonl").write_bytes(line("a/0.png", text="another"))
    with pytest.raises(InputError, match="another caption"):
        read_folder(tmp_path, ("general",))


REFUSED: dict[str, tuple[dict[str, bytes], str]] = {
    "cut last line": (
        {"metadata.jsonl": line("0.png", text="a") + b'{"file_name": "1.png", "te'},
        r"metadata\.jsonl, line 2 is not JSON",
    ),
    "cut line": (
        {"metadata.jsonl": b'{"file_name"\n' + line("0.png", text="a")},
        r"metadata\.jsonl, line 1 is not JSON",
    ),
    "other key": ({"metadata.jsonl": line("0.png", label="a")}, r"metadata\.jsonl, row 1"),
    "other column": ({"metadata.csv": b"file_name,title\n0.png,a\n"}, r"metadata\.csv, row 1"),
    "no names": ({"metadata.csv": b"image,text\n0.png,a\n"}, r"metadata\.csv, row 1"),
    "short row": ({"metadata.csv": b"file_name,text\n0.png\n"}, r"metadata\.csv, line 2 has 1"),
    "open quote": (
        {"metadata.csv": b'file_name,text\n0.png,a\n1.png,"b\n'},
        r"metadata\.csv, line 3",
    ),
    "two captions": (
        {"metadata.jsonl": line("0.png", text="a") + line("./0.png", text="b")},
        "another caption",
    ),
    "two files": ({"0.txt": b"a", "0.caption": b"b"}, "two captions"),
    "absent": ({"metadata.jsonl": line("9.png", text="a")}, r"'9\.png', which is not there"),
    "no picture": (
        {"metadata.jsonl": line("0.heic", text="a"), "0.heic": b"x"},
        r"'0\.heic', which is not read as an image",
    ),
    "Latin-1": ({"0.txt": b"a\ncaf\xe9"}, r"0\.txt cannot be read as text \(line 2 is not UTF-8\)"),
    "binary": ({"0.txt": b"a\0b"}, "NUL"),
    "cut UTF-16": ({"0.txt": b"\xff\xfea"}, "it is cut"),
}


@pytest.mark.fault("captions of another kind")
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_captions_that_cannot_be_read_are_named(tmp_path: Path, name: str) -> None:
    files, said = REFUSED[name]
    for number in range(2):
        image(tmp_path / f"{number}.png")
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_folder(tmp_path, ("general",))
    assert caught.value.remedy
    assert "\n" not in caught.value.message


@pytest.mark.fault("captions of another kind")
def test_captions_of_no_image_are_named(tmp_path: Path) -> None:
    image(tmp_path / "0.png")
    for name in ("1.txt", "O.caption"):
        (tmp_path / name).write_text("own")
    found = read_folder(tmp_path, ("general",))
    assert found.notes == (f"in {tmp_path}, the caption of no image: 1.txt, O.caption",)
    for name in ("1.png", "2.png"):
        image(tmp_path / name)
    assert read_folder(tmp_path, ("general",)).notes == (
        f"in {tmp_path}, the caption of no image: O.caption",
        f"in {tmp_path}, without a caption of its own: 0.png, 2.png",
    )


PROMPTS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "a.txt": (b"one\n\n  two, three \r\n", ("one", "two, three")),
    "mark.txt": (BOM + b"one\ntwo, three", ("one", "two, three")),
    "wide.txt": ("one\ntwo, three\n".encode("utf-16"), ("one", "two, three")),
    "no suffix": (b"one\ntwo, three", ("one", "two, three")),
    "a.csv": (b'prompt,seed\none,1\n"two, three",2\n', ("one", "two, three")),
    "A.CSV": (BOM + b'seed,Prompt \r\n1,one\r\n2,"two, three"\r\n', ("one", "two, three")),
    "a.tsv": (b"seed\tprompt\n1\tone\n2\ttwo, three\n", ("one", "two, three")),
    "semicolons.csv": (b"seed;prompt\n1;one\n2;two, three\n", ("one", "two, three")),
    "captions.csv": (b'caption\none\n"two, three"\n', ("one", "two, three")),
    "a.csv.gz": (gzip.compress(b'prompt\none\n"two, three"\n'), ("one", "two, three")),
    "a.txt.gz": (gzip.compress(b"one\ntwo, three\n"), ("one", "two, three")),
    "a.jsonl": (b'{"prompt": "one"}\n\n{"text": "two, three"}\n', ("one", "two, three")),
}


@pytest.mark.fault("prompt file of another kind")
@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_prompts_are_read_from_what_people_have(tmp_path: Path, name: str) -> None:
    content, prompts = PROMPTS[name]
    (tmp_path / name).write_bytes(content)
    assert read_prompts(tmp_path / name) == prompts
    config = ConceptConfig(validation_prompts=str(tmp_path / name))
    assert validation_prompts(config) == prompts


UNUSABLE: dict[str, tuple[bytes, str]] = {
    "quote.csv": (b'prompt,seed\none,1\nsay "hi",2\n"say "hi"",3\n', r"quote\.csv, line 4"),
    "open.csv": (b'prompt\none\n"two\nthree\n', r"open\.csv, line 3"),
    "columns.csv": (b"title,seed\none,1\n", r"line 2 has no prompt"),
    "blank.csv": (b"prompt,seed\none,1\n,2\n", r"line 3 has no prompt"),
    "short.csv": (b"prompt,seed\none\n", r"line 2 has 1 fields instead of 2"),
    "header.csv": (b"prompt\n", "no row"),
    "twice.csv": (b"prompt,prompt\na,b\n", "two columns 'prompt'"),
    "number.jsonl": (b'{"prompt": 3}\n', "line 1 has no prompt"),
    "list.jsonl": (b'["one"]\n', r"row 1 is no JSON object"),
    "a.json": (b'["one"]', "no list of prompts"),
    "a.yaml": (b"- one\n", "no list of prompts"),
    "a.parquet": (b"PAR1", "no list of prompts"),
    "zero.txt": (b"", "holds no prompt"),
    "binary.txt": (b"PK\3\4\0\0", "NUL"),
    "cut.csv.gz": (gzip.compress(b"prompt\none\n")[:-9], "cannot be read as a CSV table"),
    "bomb.txt.gz": (gzip.compress(b"a" * (SMALL + 1), 1), "more than 64 MiB"),
    "rows.csv.gz": (gzip.compress(b"prompt\n" + b"a\n" * 1200), "more than 1,000 rows"),
    "lines.txt": (b"a\n" * 1200, "more than 1,000 rows"),
}


@pytest.mark.fault("prompt file of another kind")
@pytest.mark.parametrize("name", sorted(UNUSABLE))
def test_prompt_files_that_cannot_be_used_name_the_place(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, said = UNUSABLE[name]
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(texts, "ROWS", 1000)
    with pytest.raises(InputError, match=said) as caught:
        read_prompts(tmp_path / name)
    assert name in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.remedy


@pytest.mark.fault("no regular file")
def test_a_prompt_file_that_never_ends_is_refused() -> None:
    for path in ("/dev/zero", "/dev/null", "/proc"):
        with pytest.raises(InputError, match="no regular file"):
            read_prompts(path)


def test_a_long_validation_prompt_is_no_file_name() -> None:
    assert validation_prompts(ConceptConfig(validation_prompts="a " * 1500)) == (
        ("a " * 1500).strip(),
    )


TEMPLATES = (
    *("{name:>99999999999}", "{name!r}", "{name.x}", "{name[0]}", "{name:{name}}", "{}", "{0}"),
    *("{other}", "{name", "name}", "{name.__class__.__mro__}", "{ name}", "{name:s}"),
)


@pytest.mark.fault("hostile template")
@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_know_names_only(tmp_path: Path, template: str) -> None:
    file = tmp_path / "x.yaml"
    lists = {split: [f"a {template}"] for split in ("forget", "retain", "evaluate")}
    file.write_text(json.dumps({"classes": [{"name": "one"}], "templates": lists}))
    with pytest.raises(InputError, match="does not fit 'one'"):
        read_class_list(file)


def test_templates_keep_doubled_braces_and_values_are_no_templates(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    lists = {split: ["{{a}} {name}"] for split in ("forget", "retain", "evaluate")}
    file.write_text(json.dumps({"classes": [{"name": "{name:>9}"}], "templates": lists}))
    assert read_class_list(file).captions("forget", 0) == ["{a} {name:>9}"]
