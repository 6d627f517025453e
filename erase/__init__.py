"""Make an image model forget: LUR ("Learning to Unlearn while Retaining") and its baselines.

The commands as functions: `concept`, `forget_class`, `classifier`, `evaluate`, `compare`, `load`
and `verify` (`erase.api`), and `meta_gradient`, LUR's gradient for any model (`erase.core.meta`).
They are imported when they are asked for, so that `import erase` is quick and needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
_HOMES = {
    **dict.fromkeys(
        ("classifier", "compare", "concept", "evaluate", "forget_class", "load", "verify"),
        "erase.api",
    ),
    "meta_gradient": "erase.core.meta",
}
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from erase.api import classifier as classifier
    from erase.api import compare as compare
    from erase.api import concept as concept
    from erase.api import evaluate as evaluate
    from erase.api import forget_class as forget_class
    from erase.api import load as load
    from erase.api import verify as verify
    from erase.core.meta import meta_gradient as meta_gradient


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
