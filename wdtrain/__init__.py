"""wdtrain: exact, resumable streaming and training of dense-prediction networks on WebDataset."""

__version__ = "0.1.0"
