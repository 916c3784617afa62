"""Compares the answers of `auto` with the base model's."""
