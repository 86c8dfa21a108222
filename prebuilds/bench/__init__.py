"""Benchmarks. They measure a claim beside its floor in the same run, on a stack in use or on a stack of their own.

A floor is the least that such a measurement can cost: a workflow that does nothing, or a statement alone.
"""
