"""Whether requests get what they ask for: the right learnware, or the base model."""
