"""Retained accuracy: share of images of all other concepts that show what was asked for.

RA as in SalUn (Fan et al. 2024, section 5), on generated images: the classifier's accuracy over the
classes that were to be kept.
"""

from erase.scoring.recognition import RecognitionRate


class RetainedAccuracy(RecognitionRate):
    """Retained accuracy, by the evaluation's classifier."""

    name = "ra"
    title = "retained accuracy"
    requires = frozenset({"classifier"})
    forgotten = False
