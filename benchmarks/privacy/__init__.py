"""Attacks task specifications and measures what they give away."""
