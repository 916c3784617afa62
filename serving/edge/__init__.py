"""The rules of the edge: what HAProxy refuses, counts and answers itself, as edits of what Ray configures.

Its modules run in a bare interpreter beside HAProxy and import nothing but the standard library.
"""
