"""Compares rules that choose from a market of many learnwares."""
