"""What looks at images for the metrics: classifiers, Inception, CLIP, LPIPS; one file each.

Metrics stay free of models: they say what they need (`erase.metrics`), and `erase.evaluation.
observe` makes the observers of a protocol, each of which finds its weights when it is made and
loads them when it first looks. All work in batches, so that memory does not grow with the images.
"""
