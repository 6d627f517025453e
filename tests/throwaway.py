"""A package outside of `erase` with a suite, a metric, a judge and a method, one file each."""

from pathlib import Path

SUITE = '''"""Two plain colours, asked for by their names."""

from pathlib import Path

from erase.scoring.samples import Protocol, Sample
from erase.scoring.suite import Suite, by_name


class TwoColours(Suite):
    """Red and blue."""

    name = "two-colours"
    version = 1

    def protocols(self) -> dict[str, Protocol]:
        """The only one."""
        return by_name(
            self.protocol(("brightness",), steps=1, guidance=1.0, images=2, source="a test")
        )

    def samples(self, protocol: Protocol, prompts: Path) -> list[Sample]:
        """As many of each as the protocol says."""
        return [
            Sample(f"{colour}-{i}", colour, 2 * i + (colour == "red"), guidance=protocol.guidance)
            for colour in ("blue", "red")
            for i in range(protocol.images)
        ]
'''
METRIC = '''"""Mean brightness of all images."""

from typing import ClassVar

from erase.scoring.context import Context
from erase.scoring.metric import Metric
from erase.scoring.results import Scores, Summary, mean_difference
from erase.scoring.statistics import bootstrap


class Brightness(Metric):
    """What the judge `mean-pixel` says, times a factor."""

    name = "brightness"
    requires = frozenset({"mean-pixel"})
    settings: ClassVar = {"factor": 1.0}

    def __call__(self, context: Context) -> Scores:
        """`brightness`, from 0 to the factor."""
        values = context.settings["factor"] * context.judged["mean-pixel"]
        interval = bootstrap(lambda i: float(values[i].mean()), len(values), seed=context.seed)
        summary = Summary("brightness", float(values.mean()), len(values), interval, True, "score")
        differences = {}
        if context.control is not None:
            before = context.settings["factor"] * context.control.judged["mean-pixel"]
            differences["brightness"] = mean_difference(values, before, seed=context.seed)
        rows = {s.id: {"brightness": float(v)} for s, v in zip(context.samples, values)}
        return Scores({"brightness": summary}, rows, differences)
'''
JUDGE = '''"""Mean pixel of each image."""

from typing import ClassVar

import numpy as np
from PIL import Image

from erase.scoring.judge import PluginJudge, View


class MeanPixel(PluginJudge):
    """From 0 (black) to 1 (white), minus an offset."""

    name = "mean-pixel"
    settings: ClassVar = {"offset": 0.0}

    def fingerprint(self) -> str:
        """Of its one setting."""
        return f"{self.values['offset']}"

    def look(self, view: View) -> np.ndarray:
        """`[N]`."""
        images = [np.asarray(Image.open(file).convert("RGB")) for file in view.files]
        return np.array([image.mean() / 255 for image in images]) - self.values["offset"]
'''
METHOD = '''"""Stand still: every gradient is zero."""

from dataclasses import dataclass
from typing import ClassVar

from torch import zeros_like

from erase.core.meta import Stats
from erase.tasks.method import BaseMethod, put_gradients


@dataclass(frozen=True)
class Settings:
    """None."""


class Method(BaseMethod):
    """Changes nothing."""

    families: ClassVar = frozenset({"classifier", "text-to-image"})

    def step(self, task, step, reduce):
        """Zeros."""
        put_gradients(task, [zeros_like(p) for p in task.parameters.values()], reduce)
        return Stats(0.0, 0.0, 0.0)
'''
FILES = {"colours": SUITE, "brightness": METRIC, "pixel": JUDGE, "still": METHOD}
ENTRY_POINTS = {
    "suites": {"two-colours": "throwaway_package.colours"},
    "metrics": {"brightness": "throwaway_package.brightness"},
    "judges": {"mean-pixel": "throwaway_package.pixel"},
    "methods": {"stand_still": "throwaway_package.still"},
}


def install(
    site: Path,
    package: str = "throwaway-package",
    files: dict[str, str] = FILES,
    entry_points: dict[str, dict[str, str]] = ENTRY_POINTS,
) -> Path:
    """What pip would put into a folder of `sys.path`; returns the folder."""
    stem = package.replace("-", "_")
    modules, facts = site / stem, site / f"{stem}-1.0.dist-info"
    modules.mkdir(parents=True)
    facts.mkdir()
    (modules / "__init__.py").touch()
    for name, text in files.items():
        (modules / f"{name}.py").write_text(text)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = []
    for kind, points in entry_points.items():
        lines += [f"[erase.{kind}]", *(f"{name} = {value}" for name, value in points.items())]
    (facts / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return site
