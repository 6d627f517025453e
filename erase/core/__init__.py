"""Layer 1: the meta step, the losses and the handling of parameters (torch and layer 0 only)."""
