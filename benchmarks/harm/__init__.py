"""Whether `auto` answers worse than the base model."""
