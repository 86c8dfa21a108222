"""The conformance kit: checks that a driver keeps the protocol's promises, on real workspaces.

The kit knows only the protocol in `prebuilds/provisioners/base.py`. `prebuilds provisioners check` runs it from the
command line, and the pytest plug-in runs it as tests of a driver's own project. This file imports nothing, since pytest
loads the plug-in in every project of an environment.
"""
