"""Other people's data as samples: folders are listed, declared, divided and read. No torch.

Read `folder.py` (a folder of triples), `listing.py` (which files make a sample), `declared.py`
(what their values mean), `division.py` (a split that a person made).
"""
