"""What a person or a service can ask for: the one border between Prebuilds and whoever uses it.

The command line, `OperatorRequest` and other callers get the same typed records and the same typed errors here.
`facade.py` has all operations in one object, `opening.py` opens a deployment for them, and each other module has those
of one subject. A method that changes something takes the `Actor` who asks first. Claims are apart, in `claims.py` and
`open_claims.py`, since they have database connections of their own.

This module imports nothing, so that whoever needs one part does not load the others.
"""
