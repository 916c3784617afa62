"""Prometheus metrics of all processes in one scrape."""
