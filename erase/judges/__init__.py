"""What looks at images for the metrics: classifiers, Inception, CLIP, LPIPS, NudeNet.

Each is a `Judge` (`erase.scoring.judge`). Metrics stay free of models: they say which judges they
require (`erase.scoring.metric`), and `erase.evaluation.observe` makes those of a protocol.
"""
