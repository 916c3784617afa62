"""The edge: the HAProxy wrapper, listening ports, draining, and what a killed stack left behind."""
