"""Files that others publish: where they lie on this machine, and how they get there."""
