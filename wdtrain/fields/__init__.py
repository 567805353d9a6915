"""What a sample is made of, and what gives samples: `source.py` is the protocol of a source."""
