"""What benchmarks share: load, servers, prompts, cases, rules that choose, statistics, reports."""
