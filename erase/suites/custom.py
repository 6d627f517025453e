"""Any table of captions: a CSV with prompt, and seed, guidance, target, negative_prompt if wanted.

Given with `--prompt-table FILE`. Targets are the classes: with them, and a classifier, `ua` and
`ra` can be measured.
"""

from pathlib import Path

from erase.data.prompt_table import suite_table, table_samples
from erase.scoring.samples import Protocol, Sample, Unusable
from erase.scoring.suite import Suite, by_name


class Custom(Suite):
    """A table of the user's captions."""

    name = "custom"
    version = 1

    def protocols(self) -> dict[str, Protocol]:
        """The named settings of this suite."""
        default = self.protocol(
            ("clip",),
            steps=50,
            guidance=7.5,
            images=1,
            source="erase; the model's own scheduler",
        )
        return by_name(default)

    def classes(self, prompts: Path) -> tuple[str, ...]:
        """The table's targets, in the order in which they first come."""
        rows = suite_table(self, prompts, ("seed", "guidance")).rows
        return tuple(dict.fromkeys(row.target for row in rows if row.target))

    def samples(self, protocol: Protocol, prompts: Path) -> list[Sample]:
        """A sample for each row, with the row's own guidance scale where it brings one.

        Raises InputError when the table is missing or broken.
        """
        return table_samples(
            suite_table(self, prompts, ("seed", "guidance")).rows, protocol, row_guidance=True
        )

    def unusable(self, protocol: Protocol, prompts: Path) -> list[Unusable]:  # noqa: ARG002
        """Rows that had to be left out."""
        return list(suite_table(self, prompts, ("seed", "guidance")).unusable)
