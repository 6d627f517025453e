"""`python -m erase`, and so `accelerate launch -m erase`."""

from erase.cli.main import run

if __name__ == "__main__":
    run()
