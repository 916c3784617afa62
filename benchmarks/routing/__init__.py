"""Measures the router's own time by number of learnwares, and while the market changes."""
