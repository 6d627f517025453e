"""What an evaluation is made of, and its statistics; numpy and scipy, no torch."""
