"""Numbers and tables: whole numbers keep their digits, no row or class is lost unseen."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from erase.config.classifier import TrainConfig
from erase.config.concept import ConceptConfig
from erase.config.ddpm import DDPMConfig
from erase.config.evaluate import EvaluateConfig
from erase.core.rng import derive_seed
from erase.data.classification import load_dataset
from erase.data.prompt_table import prompt_source, read_table
from erase.errors import InputError
from erase.evaluation.protocols import change, find_protocol
from erase.scoring.suite import load_suite

WHOLE = [2**53 - 1, 2**53 + 1, 2**62 + 1, 2**63 - 1]


@pytest.mark.fault("large whole number")
@pytest.mark.parametrize("seed", WHOLE)
@pytest.mark.parametrize("form", ["{}", " {} ", "{}.0", "{}e0", "+{}"])
def test_a_large_seed_keeps_its_digits(seed: int, form: str) -> None:
    text = form.format(seed)
    configs: tuple[Any, ...] = (ConceptConfig, TrainConfig, DDPMConfig, EvaluateConfig)
    for config in configs:
        assert config(seed=text).seed == config(seed=seed).seed == seed
    assert len({derive_seed(seed + near) for near in (-1, 0, 1)}) == 3


@pytest.mark.fault("large whole number")
@pytest.mark.parametrize(
    "text", ["9007199254740993.5", "1.5", "1e-400", "1e400", "nan", "9" * 5000, "-1", "0x10", "1e"]
)
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="seed is"):
        ConceptConfig(seed=text)  # type: ignore[arg-type]


def write(folder: Path, text: str, name: str = "prompts.csv") -> Path:
    file = folder / name
    file.write_text(text)
    return file


@pytest.mark.fault("large whole number")
@pytest.mark.parametrize("seed", WHOLE)
def test_seeds_of_a_table_keep_their_digits(tmp_path: Path, seed: int) -> None:
    file = write(tmp_path, f"prompt,seed\na,{seed}\nb,{seed}.0\nc,+{seed}\n")
    table = read_table(file)
    assert [row.seed for row in table.rows] == [seed] * 3
    assert table.unusable == ()


@pytest.mark.fault("large whole number")
@pytest.mark.parametrize(
    "seed", [str(2**63), "-1", "1.5", "1e400", "1e999999999", "1e-999999999", "inf", "nan", "x"]
)
def test_other_seeds_of_a_table_are_listed(tmp_path: Path, seed: str) -> None:
    table = read_table(write(tmp_path, f"prompt,seed\na,{seed}\nb,1\n"))
    assert [row.prompt for row in table.rows] == ["b"]
    assert [item.prompt for item in table.unusable] == ["a"]
    assert seed in table.unusable[0].why


TABLE = "prompt,seed,guidance,nudity_percentage,class\n" + "".join(
    f"p{number},{number},{guidance},{nudity},tench\n"
    for number, (guidance, nudity) in enumerate([("7.5", "10"), ("0", "90"), ("", "?"), ("x", "")])
)


@pytest.mark.fault("unread column")
@pytest.mark.parametrize(
    ("suite", "settings", "left_out"),
    [
        ("coco", (), 0),
        ("i2p", (), 0),
        ("imagenette", (), 0),
        ("i2p", ("i2p.row_guidance=true",), 2),
        ("i2p", ("i2p.min_nudity=5",), 1),
        ("i2p", ("i2p.row_guidance=true", "i2p.min_nudity=5"), 3),
        ("custom", (), 2),
    ],
)
def test_a_row_is_left_out_only_for_a_column_that_is_read(
    tmp_path: Path, suite: str, settings: tuple[str, ...], left_out: int
) -> None:
    file = write(tmp_path, TABLE)
    module = load_suite(suite)
    protocol = change(module, find_protocol(module, "default"), settings=settings)
    assert len(module.unusable(protocol, file)) == left_out
    samples = module.samples(protocol, file)
    if "i2p.min_nudity=5" not in settings:
        assert len({sample.prompt for sample in samples}) == 4 - left_out
    if suite == "coco":
        assert [sample.seed for sample in samples] == [0, 1, 2, 3]


@pytest.mark.fault("prompt file of another kind")
@pytest.mark.parametrize("name", ["A.CSV", "a.Csv", "a.csv.GZ", "a.tsv"])
def test_a_table_is_known_by_its_suffix_in_any_case(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, "prompt\na\n", name)
    assert prompt_source(str(file)) == file
    if not name.endswith("GZ"):
        assert read_table(file).rows[0].prompt == "a"


@pytest.mark.fault("prompt file of another kind")
def test_a_bad_quote_names_the_line_that_its_row_begins_in(tmp_path: Path) -> None:
    file = write(tmp_path, 'prompt,seed\n"two\nlines",1\n"a "bad" one",2\nlast,3\n')
    with pytest.raises(InputError, match="line 4: cannot be read as a CSV table") as caught:
        read_table(file)
    assert "quotes" in caught.value.remedy
    assert "UTF-8" not in caught.value.remedy


def class_tree(folder: Path, counts: dict[str, int], part: str = "") -> None:
    for label, (name, count) in enumerate(counts.items()):
        (folder / part / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((4, 4, 3), 10 * label + number, np.uint8)
            Image.fromarray(pixels).save(folder / part / name / f"{number:03d}.png")


@pytest.mark.fault("limit of one class")
@pytest.mark.parametrize("limit", [3, 4, 10, 14, 15, 100])
def test_a_limit_takes_as_many_of_each_class_as_there_are(tmp_path: Path, limit: int) -> None:
    class_tree(tmp_path, {"a": 10, "b": 3, "c": 2}, "train")
    class_tree(tmp_path, {"a": 5, "b": 5, "c": 5}, "test")
    data = load_dataset("folder", tmp_path, image_size=4, limit=limit)
    counts = Counter(data.train.labels.tolist())
    assert counts.total() == min(limit, 15)
    expected = {3: (1, 1, 1), 4: (2, 1, 1), 10: (5, 3, 2), 14: (9, 3, 2)}.get(limit, (10, 3, 2))
    assert tuple(counts[label] for label in range(3)) == expected
    tested = Counter(data.test.labels.tolist())
    assert len(tested) == 3
    assert max(tested.values()) - min(tested.values()) <= 1
    again = load_dataset("folder", tmp_path, image_size=4, limit=limit)
    assert again.train.labels.tolist() == data.train.labels.tolist()


@pytest.mark.fault("limit of one class")
def test_a_limit_without_all_classes_is_refused(tmp_path: Path) -> None:
    class_tree(tmp_path, {"a": 5, "b": 5, "c": 5})
    with pytest.raises(InputError, match="cannot hold 3 classes"):
        load_dataset("folder", tmp_path, image_size=4, limit=2)
    with pytest.raises(InputError, match="The first 10 images hold none of"):
        load_dataset("digits", limit=10)
    digits = load_dataset("digits", limit=200)
    whole = load_dataset("digits")
    assert digits.train.labels.equal(whole.train.labels[:200])
