"""Unlearning accuracy: share of images asked to show a forgotten concept that do not show it.

UA as in SalUn (Fan et al. 2024, section 5): 1 minus the classifier's accuracy on the images of the
forgotten class. A model that renders noise scores 1 as well: read it beside `ra` and `fid`.
"""

from erase.scoring.recognition import RecognitionRate


class UnlearningAccuracy(RecognitionRate):
    """Unlearning accuracy, by the evaluation's classifier."""

    name = "ua"
    title = "unlearning accuracy"
    requires = frozenset({"targets", "classifier"})
    forgotten = True
