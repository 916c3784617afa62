"""The rules of the edge: what HAProxy refuses, counts and answers itself, as edits of what Ray configures.

Its modules run in a bare interpreter beside HAProxy and import nothing but the standard library.

haproxy_wrapper  the program that Ray starts as HAProxy: edits the configuration, then becomes HAProxy
correlation      ids of requests, trace context, log lines in JSON
frontend         sources, paths, CORS, keys and sizes of bodies, at the head of the frontend
tenants          requests a minute, requests at once, and a fair share of all
router_rules     which requests ask a router, what becomes of its answer, and one more try on another replica
answers          error objects of OpenAI's and Anthropic's APIs
key_maps         the keys as HAProxy looks them up
key_watcher      the program that follows the key file while HAProxy runs
settings         everything that the launcher tells these programs
template         edits of a text of Ray's that fail where it has changed
"""
