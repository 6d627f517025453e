"""COCO captions: whether a model still renders everyday scenes, and how well they fit.

A table of captions with seeds, as the papers share them (`coco_30k.csv`, or the 10,000 of them that
Ring-A-Bell and AdvUnlearn use), is given with `--prompt-table FILE`. FID compares with
`--reference`, a folder of real COCO images, or without one with the baseline's images of the same
captions.
"""

from pathlib import Path

from erase.data.prompt_table import suite_table, table_samples
from erase.scoring.samples import Protocol, Sample, Unusable
from erase.scoring.suite import Suite, by_name


class Coco(Suite):
    """A table of COCO captions."""

    name = "coco"
    version = 1

    def protocols(self) -> dict[str, Protocol]:
        """The named settings of this suite."""
        default = self.protocol(
            ("fid", "clip"),
            steps=50,
            guidance=7.5,
            images=1,
            source="erase; the model's own scheduler, every caption of the table",
        )
        lms = default.replace(scheduler="LMSDiscreteScheduler", limit=10_000)
        return by_name(
            default,
            default.replace(name="10k", limit=10_000, source="erase; 10,000 captions"),
            default.replace(name="30k", limit=30_000, source="erase; 30,000 captions"),
            lms.replace(
                name="salun",
                steps=100,
                source="SalUn (Fan et al. 2024), public code: LMS, 100 steps",
            ),
            lms.replace(
                name="shs", source="Scissorhands (Wu et al. 2024), public code: LMS, 50 steps"
            ),
            default.replace(
                name="mace",
                scheduler="DDIMScheduler",
                limit=30_000,
                source="MACE (Lu et al. 2024), public code: DDIM, 50 steps; COCO-30k",
            ),
            lms.replace(
                name="paper",
                steps=100,
                source="LUR, section 5.2 and appendix table F: COCO-10k, 100 steps; scheduler and"
                " guidance, which it does not state, from SalUn's code",
            ),
        )

    def samples(self, protocol: Protocol, prompts: Path) -> list[Sample]:
        """A sample for each caption; InputError when the table is missing or broken."""
        return table_samples(
            suite_table(self, prompts, ("seed",)).rows, protocol, row_guidance=False
        )

    def unusable(self, protocol: Protocol, prompts: Path) -> list[Unusable]:  # noqa: ARG002
        """Rows that had to be left out."""
        return list(suite_table(self, prompts, ("seed",)).unusable)
