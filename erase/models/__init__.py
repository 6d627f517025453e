"""Model definitions, the embedded models, and how to load them."""
