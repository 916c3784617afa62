"""Measures whether requests get the right learnware, or the base model."""
