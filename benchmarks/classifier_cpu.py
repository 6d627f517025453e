"""All classifier methods on small real images, at equal effort, on CPU cores: docs/classifier.md.

    python -m benchmarks.classifier_cpu --data-dir DATA --output runs/classifier-cpu --jobs 2

CIFAR-10 at 16 pixels a side, 1,000 training images of each class (a tenth of them for validation),
2,000 test images, the net `cnn-gelu`. Forgotten are `random:10%`, `random:50%` and `class:cat`, in
three trials. Every method has 12 trials to choose its settings by, on forget sets that are none of
the table's, and one pass over the retain set; those that only see D_f have five passes over it.
LUR stands in the table twice: in `lur` α sets itself, `lur+fixed` has the paper's. Figure 5
sweeps α at the settings of `lur`.

This is `erase compare classifier` with the options below, printed first; it may be killed and
started again. `costs.json` in the output folder sums the processor time of each kind of job.
"""

import argparse
import sys
from typing import Any

from benchmarks.compare import (
    classifier_options,
    classifier_parser,
    classifier_settings,
    run_and_count,
)
from benchmarks.compare import command as compare
from erase import registry
from erase.config.families import CLASSIFIER, methods_for

FORGET = ("random:10%", "random:50%", "class:cat")
ALPHAS = "0,0.01,0.03,0.1,0.3,auto"
DATA = {"dataset": "cifar10", "resolution": 16, "images-per-class": 1000}
RECIPE = {"arch": "cnn-gelu", "crop-padding": 0, "retrain-epochs": 24, "epochs": 1}
TRAINING = (
    "retrain.learning_rate=0.15",
    "retrain.weight_decay=1e-4",
    "retrain.lr_scheduler=cosine",
)
"""Of the original and of Retrain."""
BATCH = 64
FORGET_ONLY = {"ga": 5, "be": 5, "bs": 5}
"""Passes over D_f of the methods that see nothing else."""
OTHERS = ("ssd.fisher_batch_size=64",)  # its authors' faster way: 9,000 gradients otherwise
SLICE = {"images-per-class": 40, "retrain-epochs": 2, "trials": 1, "search": 5, "shadow-models": 1}


def lines() -> list[str]:
    """The lines of the table: every classifier method of the registry, and LUR with its own α."""
    return [*(name for name in methods_for(CLASSIFIER) if name != "retrain"), "lur+fixed"]


def command(given: argparse.Namespace) -> list[str]:
    """The command line that makes all of it."""
    options: dict[str, Any] = {**DATA, **RECIPE, **classifier_options(given)}
    options |= {"shadow-models": given.shadow_models, "methods": ",".join(lines())}
    metrics = [name for name in registry.names("classifier_metrics") if name != "rmia"]
    options |= {"metrics": ",".join(metrics)}  # rmia comes with the reference models
    options |= {"alphas": ALPHAS, **(SLICE if given.slice else {})}
    settings = [*classifier_settings(TRAINING, FORGET_ONLY, BATCH), *OTHERS]
    return compare("classifier", options, {"forget": given.forget or FORGET, "set": settings})


def main() -> int:
    """Run the comparison through the command line, as a user would; its exit status."""
    parser = classifier_parser(
        __doc__, "runs/classifier-cpu", data="holds cifar-10-batches-bin", jobs=2, search=12
    )
    parser.add_argument("--shadow-models", type=int, default=2, help="reference models of RMIA")
    parser.add_argument("--slice", action="store_true", help="400 images, to see that it works")
    given = parser.parse_args()
    return run_and_count(command(given), given.output)


if __name__ == "__main__":
    sys.exit(main())
