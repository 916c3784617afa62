"""OpenTelemetry traces and structured logs of a stack's processes."""
