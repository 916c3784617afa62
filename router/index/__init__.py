"""The index of specifications' points: exact search, inverted files for large markets, and the fitted metric."""
