"""What a person or a service can ask for: the one border between Prebuilds and whoever uses it.

The command line, `OperatorRequest` and other callers get the same typed records and the same typed errors here.
`facade.py` has all operations in one object, `opening.py` opens a deployment for them, and each other module has the
operations of one subject. A method that changes something takes the requesting `Actor` as its first argument. Claims
are separate, in `claims.py` and `open_claims.py`, because they have database connections of their own.

This module imports nothing, so that a caller loads only the parts that it needs.
"""
