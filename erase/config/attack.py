"""What one run of attacks is asked to do; importable without torch."""

from dataclasses import dataclass
from pathlib import Path

from erase import registry
from erase.config.evaluate import EvaluateConfig
from erase.config.fields import option
from erase.config.values import parse_owned

JUDGES = {"classifier": "ua", "nudenet": "nudenet"}
"""What may say whether an image shows the concept, and the metric whose verdict it is."""
OPTIONS_OF_EVALUATION_ALONE = frozenset({"metrics", "reference", "no_baseline"})
"""Settings of an evaluation that attacks do not have."""


@dataclass(frozen=True)
class AttackConfig(EvaluateConfig):
    """`erase attack`: whether a model still shows what it was made to forget."""

    model: str = option("", "Model to attack: a run's folder, an alias or a hub id.")
    attack: tuple[str, ...] = option(
        (),
        f"Attack; may be repeated: {', '.join(registry.names('attacks'))}. [default: all that the"
        " model can be attacked with]",
    )
    output: str = option("", "Folder of the result. [default: attack-SUITE in the model's]")
    judge: str | None = option(
        None, "Who says whether an image shows the concept. [default: the suite's]", JUDGES
    )
    concept_images: str | None = option(
        None, "Folder of images of the concept. [default: the base model renders them]"
    )
    harmless_images: str | None = option(
        None, "Folder of images of anything else. [default: the base model renders them]"
    )
    num_images: int = option(50, "Images of each kind that the base model renders.", least=1)
    baseline: str | None = option(
        None,
        "Base model, attacked in the same way as the control. [default: the base of the record]",
        former=("base", "control"),
    )
    limit: int | None = option(None, "At most N prompts of the concept.", least=1)
    follow_links: bool | None = option(None, "Follow links that lead out of a folder of images.")
    settings: tuple[str, ...] = option(
        (),
        "A setting of an attack: relearn.learning_rate=1e-5; or of the judge:"
        " nudenet.threshold=0.45; may be repeated.",
        metavar="ATTACK.NAME=VALUE",
    )

    def attack_settings(self) -> dict[str, dict[str, str]]:
        """The given settings of attacks, by attack.

        Raises InputError for a text that is not OWNER.NAME=VALUE.
        """
        owned = parse_owned(self.settings, owner="ATTACK", example="relearn.learning_rate=1e-5")
        return {name: v for name, v in owned.items() if name in registry.names("attacks")}

    def other_settings(self) -> tuple[str, ...]:
        """The given settings of the judge and the suite."""
        attacks = registry.names("attacks")
        return tuple(
            text for text in self.settings if text.partition(".")[0].strip() not in attacks
        )


def default_output(model: str, suite: str) -> str:
    """Inside a model's folder, or in the working directory for a model that is not one."""
    if Path(model).is_dir():
        return str(Path(model) / f"attack-{suite}")
    return f"attack-{suite}-{model.replace('/', '--')}"
