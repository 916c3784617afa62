"""Task specifications over HTTP: a client uploads one in the place of its rows, and asks for `task:<id>` then."""
