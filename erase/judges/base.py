"""What every classifier that judges images has."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from erase.scoring.context import Predictions, Reference
from erase.scoring.judge import Judge, View


class ClassifierJudge(Judge[Predictions]):
    """A classifier, with the real images that distances refer to where it brings them."""

    name: str
    """In letters, digits and underscores."""
    classes: tuple[str, ...]
    description: str
    """Of its features."""

    @abstractmethod
    def predict(self, images: Sequence[Path]) -> Predictions:
        """Probabilities and features of image files, in their order."""

    def look(self, view: View) -> Predictions:
        """Probabilities and features of the images."""
        return self.predict(view.files)

    def reference(self) -> Reference | None:
        """Features of real images of every class; None where real images have to be given."""
        return None
