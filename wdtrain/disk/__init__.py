"""Files of this machine: written whole or not at all, and the errors where they cannot be used.

Read `failures.py` (what can be wrong with a dataset), `durable.py` (files that survive a kill),
`machine.py` (whose temporary file that is), `sourcefiles.py` (the files that a person brings).
"""
