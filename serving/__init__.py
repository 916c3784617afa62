"""The engine side: configuration, application, engine replicas, edge, metrics and the command line."""
