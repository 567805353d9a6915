"""The peers of `loaders.py`, one module each, and the child process that runs them.

A module is imported by the interpreter of its own environment only, where neither wdtrain nor the
other peers need exist. `rows.py` names them all and imports none.
"""
