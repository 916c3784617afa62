"""Shared by the benchmarks: load, servers, prompts, cases, rules of choice, statistics, reports."""
