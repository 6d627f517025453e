"""Metrics: one file each, found by its name; from rendered images to numbers.

A metric is a module whose docstring's first line describes it in one sentence, and that holds

* `NEEDS: frozenset[str]`: what of the context it uses beyond samples and images: `classifier`,
  `reference`;
* `score(context: Context) -> Scores`: the summaries by name (a name says what was measured with:
  `fid_digits_classifier`, never plain `fid`, for features that are not Inception's) and fields
  for the rows of `samples.jsonl`. RunError when there is no image to measure, because 0 would
  often be the best score. Equal contexts give equal scores: resampling is seeded.

A metric imports neither another metric nor a suite.
"""
