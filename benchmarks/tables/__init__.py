"""Tables of measured figures in README files, written from `benchmarks/results`."""
