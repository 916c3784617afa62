"""The index of specifications' points: exact search, an inverted file for large markets, and the fitted metric."""
