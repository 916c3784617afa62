"""The log of decisions: what was asked of a stack, what was chosen and why, and how it went."""
