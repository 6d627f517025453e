"""Make an image model forget: LUR ("Learning to Unlearn while Retaining") and its baselines."""

__version__ = "0.1.0"
