"""`erase train`: make the models that ship with erase, or that its experiments start from."""

from erase.cli.command import command
from erase.cli.main import LazyGroup


@command(
    cls=LazyGroup,
    lazy={
        "classifier": "erase.cli.train_classifier:classifier",
        "ddpm": "erase.cli.train_ddpm:ddpm",
        "mini-emoji": "erase.cli.train_mini_emoji:mini_emoji",
        "mini-sd": "erase.cli.train_mini_sd:mini_sd",
    },
)
def train() -> None:
    """Train a model from scratch."""
