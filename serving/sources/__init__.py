"""Places that adapters come from: `serving.sources.fetch` brings one into a folder of ours.

fetching   reads what a source's text means, and brings the adapter
hub        models of the Hugging Face hub
bucket     object stores, through fsspec
web        zips behind a URL; downloads with bounded redirects, sizes and times
redaction  keeps secrets out of messages and logs
pickled    makes safetensors of weights in a pickle
unpickle   the program that reads a pickle, in a process of its own
"""

from serving.sources.fetching import Fetched, fetch

__all__ = ["Fetched", "fetch"]
