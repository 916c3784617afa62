"""The small Ray Serve applications beside the endpoint.

market         `/v1/learnwares`: lists, submits, replaces and removes learnwares
market_server  the market as Ray Serve runs it: the trial on an engine, the rule for canaries, the replicas that follow
market_record  the description of one learnware, for `market` and the command line
console        `/console/`: the pages in the browser
console_files  the pages' files, and the headers that they are served with
live           the state of the stack for the pages, from one scrape
task_specs     `/v1/task-specs`: uploads task specifications and shows the choice for them
metrics        `/metrics`: one Prometheus scrape for every process
exposition     merges Prometheus expositions
access         checks the keys of readers and writers of the market
upload         writes an uploaded file to disk, up to a limit
upload_events  an upload's progress as server-sent events
broadcast      calls a method on every replica of a deployment
liveness       the health check of an application that works in threads
routing        routes by the whole path, and errors as OpenAI error objects
"""
