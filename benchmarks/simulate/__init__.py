"""Simulates adapter paging at sizes and on devices where it has not been run."""
