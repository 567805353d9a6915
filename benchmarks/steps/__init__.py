"""The rows of step.py: one module for each way to train the same networks on the same batches.

A row is a `Contender`: it takes the batches of a `Turn`, which holds the clock. Nothing here is
part of the package.
"""
