"""Upper limits of options: more is a slip of the hand."""

from collections.abc import Mapping

LARGEST: Mapping[type, float] = {int: 10_000_000, float: 1e6}
"""Largest magnitude of a number whose field states no upper limit."""
SEEDS = (1 << 63) - 1
"""Largest seed."""
BATCHES = 65_536
"""Most images at once, and most micro-batches in a step."""
IMAGES = 1_000_000
"""Most images of a set."""
STEPS = 10_000
"""Most sampling steps."""
TRAIN_STEPS = 10_000_000
"""Most steps of an optimizer."""
EPOCHS = 100_000
"""Most passes over the data."""
PIXELS = 8192
"""Most pixels a side."""
RANK = 65_536
"""Largest rank of an adapter, and most channels."""
GUIDANCE = 1000
"""Largest guidance scale."""
