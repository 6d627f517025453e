"""Forget prompts paired with anchors in a table: read, or refused with the line."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from erase.cli.main import main
from erase.config.concept import ConceptConfig
from erase.data.texts import read_pairs
from erase.errors import InputError
from erase.training.plan import plan
from erase.training.sets import prompts_of
from tests.tiny_pipelines import ddpm

BOM = b"\xef\xbb\xbf"

PAIRS: dict[str, bytes] = {
    "a.csv": b"prompt,anchor\ncat,dog\nkitten,puppy\ncat, wolf \ncat,dog\n",
    "A.TSV": BOM + b"Anchor\tseed\tPrompt\ndog\t1\tcat\npuppy\t2\tkitten\nwolf\t3\tcat\n",
    "a.jsonl": b'{"prompt": "cat", "anchor": ["dog", "wolf"]}\n'
    b'{"text": "kitten", "anchor": "puppy"}\n',
}


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_a_table_pairs_prompts_with_anchors(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PAIRS[name])
    pairs = (("cat", "kitten"), (("dog", "wolf"), ("puppy",)))
    assert read_pairs(tmp_path / name) == pairs
    config = ConceptConfig(
        model="mini-sd", concept=("three",), method="ca", forget_prompts=str(tmp_path / name)
    )
    concept = plan(config).concept
    assert (concept.forget, concept.anchors) == pairs
    assert prompts_of(concept, "anchor") == ("dog", "wolf", "puppy")
    with pytest.raises(InputError, match=r"'a bird' is given, and .* has a column anchor"):
        plan(config.replace(anchor="a bird"))


def test_without_the_column_anchors_are_the_concepts_own(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"prompt\ncat\ncat\n")
    (tmp_path / "a.txt").write_bytes(b"cat\ncat\n")
    for name in ("a.csv", "a.txt"):
        assert read_pairs(tmp_path / name) == (("cat", "cat"), None)


@pytest.mark.fault("prompt without an anchor")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.csv", b"prompt,anchor\ncat,dog\nkitten,\n", "line 3 has no anchor"),
        ("blank.tsv", b"prompt\tanchor\ncat\t  \n", "line 2 has no anchor"),
        ("short.csv", b"prompt,anchor\ncat\n", "line 2 has 1 fields instead of 2"),
        ("key.jsonl", b'{"prompt": "a", "anchor": "b"}\n{"prompt": "c"}\n', "line 2 has no anchor"),
        ("null.jsonl", b'{"prompt": "a", "anchor": null}\n', "line 1 has no anchor"),
        ("none.jsonl", b'{"prompt": "a", "anchor": []}\n', "line 1 has no anchor"),
        ("number.jsonl", b'{"prompt": "a", "anchor": ["b", 3]}\n', "line 1 has no anchor"),
        ("itself.csv", b"prompt,anchor\ncat, CAT\n", "line 2: the anchor 'CAT' is to be forgotten"),
        ("chain.csv", b"prompt,anchor\ncat,dog\ndog,bird\n", "line 2: the anchor 'dog' is to be"),
    ],
)
def test_a_prompt_without_an_anchor_is_named(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    arguments = ["concept", "--model", "mini-sd", "--concept", "three", "--method", "ca"]
    arguments += ["--output", str(tmp_path / "run"), "--forget-prompts", str(tmp_path / name)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("prompt file of another kind")
@pytest.mark.parametrize("name", ["forget_prompts", "retain_prompts"])
def test_a_model_of_classes_reads_no_prompt_file(tmp_path: Path, name: str) -> None:
    ddpm().save_pretrained(tmp_path / "model")
    (tmp_path / "a.txt").write_text("a cat\n")
    config = ConceptConfig(model=str(tmp_path / "model"), concept=("cat",))
    with pytest.raises(InputError, match="renders classes, and reads no prompts"):
        plan(config.replace(**{name: str(tmp_path / "a.txt")}))
