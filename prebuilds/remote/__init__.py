"""The HTTP API as a caller uses it: where the server is, how it is asked, and what its answers mean.

The client library and the command line stand on this package. It needs neither Temporal nor a database, and imports
neither library, so that a command that works over HTTP starts quickly.
"""
