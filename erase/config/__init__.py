"""Settings: dataclasses, their defaults and what they may be; imports no torch."""
