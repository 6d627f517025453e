"""Table 1's CIFAR-10 columns with ResNet-18: `python -m benchmarks.classifier_gpu --help`.

On one GPU the whole takes hours (an original and three Retrains of 182 epochs for each forget
share, and the search); it can be killed and started again. `--slice` runs the same commands on
2,000 images for an epoch, to see that they work.

Numbers to expect (each paper has its own MIA and Retrain: compare inside one run only):
Avg. Gap of LUR 0.89 at 10% and 2.62 at 50%; best published since at 10%: 0.44.
"""

import argparse
import subprocess
import sys
from pathlib import Path

METHODS = (
    "ft,ga,iu,be,bs,l1-sparse,salun,salun+dual,shs,scrub,ssd,lur-b,lur,lur-b+trim,lur+trim,lur+dual"
)


def main() -> None:
    """Run the comparison through the command line, as a user would."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="holds cifar-10-batches-bin")
    parser.add_argument("--output", type=Path, default=Path("runs/bench-gpu"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--search", type=int, default=20)
    parser.add_argument("--slice", action="store_true", help="2,000 images, one epoch, two methods")
    given = parser.parse_args()
    command = [
        *(sys.executable, "-m", "erase", "compare", "classifier"),
        *("--dataset", "cifar10", "--output", str(given.output), "--device", given.device),
        *("--forget", "random:10%"),
    ]
    if given.data_dir:
        command += ["--data-dir", str(given.data_dir)]
    if given.slice:
        command += ["--arch", "resnet20", "--limit", "2000", "--epochs", "1"]
        command += ["--retrain-epochs", "1", "--trials", "1", "--methods", "lur-b,lur"]
    else:
        command += ["--forget", "random:50%", "--arch", "resnet18", "--mixed-precision", "bf16"]
        command += ["--trials", str(given.trials), "--search", str(given.search)]
        command += ["--methods", METHODS, "--alphas", "0.0001,0.001,0.01,0.1"]
    print(" ".join(command))
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
