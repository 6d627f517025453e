"""Metrics: one file each, found by its name; from rendered images to numbers.

A metric is a module whose docstring's first line describes it in one sentence, and that holds

* `NEEDS: frozenset[str]`: what of the context it uses beyond samples and images: `targets` (the
  concepts that were to be forgotten), `classifier`, `features` (with the reference on the same
  features; its setting `features` names the network), `clip`, `lpips`, `nudenet`, and `control`
  when there is nothing to measure without one, so that the control itself has no value;
* `SETTINGS: Mapping[str, Any]`: what a protocol may tell it, with the defaults, whose types and,
  for a tuple, whose first entry among the possible ones count; absent when there is nothing;
* `score(context: Context) -> Scores`: the summaries by name (a name says what was measured with:
  `fid2048` on Inception's 2048 features, `fid_digits_classifier` on that classifier's, never plain
  `fid`), fields for the rows of `samples.jsonl`, and the differences to `context.control` when
  there is one, whose samples are the same. RunError when there is no image to measure, because 0
  would often be the best score. Equal contexts give equal scores: resampling is seeded.

A metric imports neither another metric nor a suite.
"""
