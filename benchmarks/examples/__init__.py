"""Programs to read and to run against a stack: each shows one way to use it, over HTTP like any client."""
