"""Table 2's setting on small real faces, on one CPU core: docs/classifier.md.

    python -m benchmarks.classifier_faces --data-dir FACES --output runs/faces

FACES is the unpacked AT&T (ORL) archive, with the folders s1 to s40 of 10 images each; any folder
with one folder of images for each person will do. Of each person's 10 images 2 are for the test, 1
for validation and 7 to train a ResNet-18 on, at 16 pixels a side. Forgotten are 10% and 50% of the
identities, in three trials. Every method has six trials to find its learning rate by, from one and
the same rate on, and one pass over the retain set; those that only see D_f have two passes over it.
LUR stands in the table twice: in `lur` α sets itself, `lur+fixed` has the paper's.

This is `erase compare classifier` with the options below, printed first; it may be killed and
started again. 10% takes about 28 minutes of one busy core. With two jobs or more, `costs.json` in
the output folder sums the processor time of each kind of job.
"""

import argparse
import sys

from benchmarks.compare import (
    classifier_options,
    classifier_parser,
    classifier_settings,
    run_and_count,
)
from benchmarks.compare import command as compare

FORGET = ("classes:10%", "classes:50%")
METHODS = "ft,ga,iu,be,bs,l1-sparse,salun,shs,scrub,munba,lur-b,lur,lur+fixed"
"""Table 2's, and of the later ones SCRUB and MUNBa."""
DATA = {"dataset": "folder", "resolution": 16}
RECIPE = {"arch": "resnet18", "retrain-epochs": 14, "epochs": 1, "learning-rate": 3e-3}
BATCH = 16
TRAINING = ("retrain.learning_rate=0.02", "retrain.lr_scheduler=cosine")
"""Of the original and of Retrain."""
FORGET_ONLY = {"ga": 2, "be": 2, "bs": 2}
"""Passes over D_f of the methods that see nothing else."""
SLICE = {"retrain-epochs": 1, "trials": 1, "search": 0, "methods": "ft,lur"}


def command(given: argparse.Namespace) -> list[str]:
    """The command line that makes all of it."""
    options = {**DATA, **RECIPE, "methods": METHODS, **classifier_options(given)}
    options |= SLICE if given.slice else {}
    settings = classifier_settings(TRAINING, FORGET_ONLY, BATCH)
    return compare("classifier", options, {"forget": given.forget or FORGET, "set": settings})


def main() -> int:
    """Run the comparison through the command line, as a user would; its exit status."""
    parser = classifier_parser(
        __doc__, "runs/faces", data="one folder of images for each person", jobs=1, search=6
    )
    parser.add_argument("--slice", action="store_true", help="one epoch, to see that it works")
    given = parser.parse_args()
    return run_and_count(command(given), given.output)


if __name__ == "__main__":
    sys.exit(main())
