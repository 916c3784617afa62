"""Conversion between learnware folders and zips of the `learnware` package, both ways."""
