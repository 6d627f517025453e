"""What rendered images take on disk."""

SMALL = 64
PNG = {True: 2.0, False: 2.5}
"""Bytes per pixel of a PNG, up to `SMALL` pixels a side and beyond. Measured: 2.0 on mini-sd's
renders of two steps; 1.9 and 3.0 on two photographs of scikit-image."""


def png_bytes(side: int) -> float:
    """Bytes of one rendered image of `side` pixels a side, about."""
    return PNG[side <= SMALL] * side**2


def readable_bytes(count: float) -> str:
    """A number of bytes for people."""
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"


def readable_time(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
