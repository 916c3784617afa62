"""The small Ray Serve applications beside the endpoint.

market         `/v1/learnwares`: lists, submits, replaces and removes learnwares
market_record  the description of one learnware, for `market` and the command line
task_specs     `/v1/task-specs`: uploads task specifications and shows the choice for them
metrics        `/metrics`: one Prometheus scrape for every process
exposition     merges Prometheus expositions
access         checks the keys of readers and writers of the market
upload         writes an uploaded file to disk, up to a limit
broadcast      calls a method on every replica of a deployment
liveness       the health check of an application that works in threads
routing        routes by the whole path, and errors as OpenAI error objects
"""
