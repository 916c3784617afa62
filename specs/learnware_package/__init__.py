"""Learnwares as zips of the `learnware` package, both ways."""
