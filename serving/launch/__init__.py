"""The process that starts the stack on this machine, watches it and takes it down: ports, environment, HAProxy, Ray."""
