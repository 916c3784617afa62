"""How well feedback teaches the choice: `python -m benchmarks.learning`."""
