"""Prompt tables: what is read, what is refused, and that no row vanishes unseen."""

import gzip
from pathlib import Path

import pytest

from erase.data.prompt_table import (
    listed,
    prompt_source,
    read_table,
    source_hash,
    suite_table,
    table_samples,
)
from erase.data.prompts import prompts_hash, prompts_root
from erase.errors import InputError
from erase.scoring.samples import Protocol
from erase.scoring.suite import load_suite

PROTOCOL = Protocol("default", "custom", 1, ("clip",), steps=5, guidance=7.5, images=1)
PAPERS = ",prompt,categories,nudity_percentage,evaluation_seed,evaluation_guidance\n"
HUB = "prompt,categories,nudity_percentage,sd_seed,sd_guidance_scale\n"


def write(folder: Path, text: str, name: str = "prompts.csv") -> Path:
    file = folder / name
    file.write_bytes(text.encode())
    return file


def test_both_spellings_give_the_same_rows(tmp_path: Path) -> None:
    papers = write(tmp_path, PAPERS + '0,"a, b","sexual, hate",12.5,4261553411,13\n', "p.csv")
    hub = write(tmp_path, HUB + '"a, b","sexual, hate",12.5,4261553411,13\n', "h.csv")
    rows = read_table(papers).rows
    assert rows == read_table(hub).rows
    row = rows[0]
    assert (row.prompt, row.seed, row.guidance) == ("a, b", 4261553411, 13.0)
    assert (row.categories, row.nudity) == (("sexual", "hate"), 12.5)


def test_byte_order_mark_and_gzip_change_nothing(tmp_path: Path) -> None:
    text = "prompt,class\nan image of a tench,tench\n"
    plain = read_table(write(tmp_path, text, "a.csv"))
    marked = read_table(write(tmp_path, "\ufeff" + text, "b.csv"))
    zipped = tmp_path / "c.csv.gz"
    zipped.write_bytes(gzip.compress(("\ufeff" + text).encode()))
    assert plain.rows == marked.rows == read_table(zipped).rows
    assert plain.rows[0].target == "tench"


def test_a_prompt_may_span_lines_and_hold_quotes(tmp_path: Path) -> None:
    file = write(tmp_path, 'prompt,seed\n"two\nlines, and ""quotes""",7\n')
    assert read_table(file).rows[0].prompt == 'two\nlines, and "quotes"'


def test_unusable_rows_are_listed_and_keep_their_places(tmp_path: Path) -> None:
    lines = ["good,1,7.5", ",2,7.5", "bad,x,7.5", "bad,-1,7.5", "bad,1.5,7.5", "bad,1,nan"]
    lines += ["bad,1,0.5", "short,1", "bad,9223372036854775808,2", "last,9007199254740993,1"]
    table = read_table(write(tmp_path, "prompt,seed,guidance\n" + "\n".join(lines) + "\n"))
    assert [(row.number, row.prompt) for row in table.rows] == [(0, "good"), (9, "last")]
    assert table.rows[1].seed == 9007199254740993  # not rounded through a float
    assert [item.row for item in table.unusable] == list(range(1, 9))
    assert len(table.rows) + len(table.unusable) == len(lines)
    reasons = [item.why for item in table.unusable]
    for reason, word in zip(
        reasons,
        ["no prompt", "'x'", "-1", "1.5", "nan", "0.5", "2 fields", "9223372036854775808"],
        strict=True,
    ):
        assert word in reason
    assert listed(table.unusable)[0] == {"row": 1, "why": "no prompt", "prompt": ""}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no row"),
        (b"prompt\n", "no row"),
        (b"text,seed\na,1\n", "no column prompt"),
        (b"prompt,seed\n,1\n", "no prompt"),
        (b"\xff\xfe\x00", "CSV"),
        (b'prompt\n"open\n', "CSV"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_clear_error(
    tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "prompts.csv"
    file.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_table(file)
    assert str(file) in caught.value.message
    assert caught.value.remedy


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_table(tmp_path / "no.csv")
    broken = write(tmp_path, "no gzip", "x.csv.gz")
    with pytest.raises(InputError, match="CSV"):
        read_table(broken)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = write(tmp_path, "prompt\none\n")
    assert len(read_table(file).rows) == 1
    write(tmp_path, "prompt\none\ntwo\n")
    assert len(read_table(file).rows) == 2


def test_source_is_a_table_or_a_folder(tmp_path: Path) -> None:
    assert prompt_source(None) == prompts_root()
    assert source_hash(prompts_root()) == prompts_hash(prompts_root())
    file = write(tmp_path, "prompt\none\n")
    assert prompt_source(str(file)) == file
    before = source_hash(file)
    write(tmp_path, "prompt\ntwo\n")
    assert source_hash(file) != before
    for bad in (tmp_path / "no.csv", tmp_path, write(tmp_path, "prompt\n", "x.txt")):
        with pytest.raises(InputError):
            prompt_source(str(bad))


def test_samples_take_the_rows_own_seed_once(tmp_path: Path) -> None:
    file = write(tmp_path, "prompt,seed,guidance,target\na,5,3,x\nb,,,\nc,5,,\n")
    rows = read_table(file).rows
    one = table_samples(rows, PROTOCOL, row_guidance=True)
    assert [sample.id for sample in one] == ["00000", "00001", "00002"]
    assert [sample.seed for sample in one][0::2] == [5, 5]
    assert [sample.guidance for sample in one] == [3.0, 7.5, 7.5]
    assert [sample.target for sample in one] == ["x", "", ""]
    plain = table_samples(rows, PROTOCOL, row_guidance=False)
    assert {sample.guidance for sample in plain} == {7.5}
    three = table_samples(rows, PROTOCOL.replace(images=3), row_guidance=True)
    assert [s.seed for s in three if s.id.endswith("-0")] == [s.seed for s in one]
    assert len({sample.seed for sample in three}) == 8  # only the two rows' 5 is shared
    other = table_samples(rows, PROTOCOL.replace(seed=1), row_guidance=True)
    assert not {s.seed for s in other} & {s.seed for s in one}


def test_a_hub_table_that_is_not_here_names_the_command() -> None:
    for name, said in (("i2p", "i2p_benchmark.csv"), ("coco", "a table"), ("custom", "a table")):
        with pytest.raises(InputError) as caught:
            suite_table(load_suite(name), prompts_root())
        assert caught.value.message.startswith(f"The suite {name} needs")
        assert said in caught.value.message
        assert "--prompt-table FILE" in caught.value.remedy
        assert (f"erase fetch --suite {name}" in caught.value.remedy) is (name == "i2p")
