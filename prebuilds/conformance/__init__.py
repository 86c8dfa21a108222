"""The conformance kit: what every provisioner driver promises, tried on a real one.

It knows the protocol in `prebuilds/provisioners/base.py` and nothing else of a driver. `prebuilds provisioners check`
runs it from the command line, the pytest plug-in as tests of a driver's own project. Nothing is imported here, since
pytest loads the plug-in in every project of an environment.
"""
