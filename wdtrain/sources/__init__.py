"""Other people's data as samples: listed, declared, divided, grouped and read. No torch.

Read `named_source.py` first (which source a person means), then `patterns.py` and
`field_options.py` (what --field says), `pattern_listing.py` and `pattern_source.py` (a folder by
patterns), `layouts.py` and `seed_parts.py` (patterns that have a name), `names.py` (keys),
`grouping.py`.
`tar_source.py` and `hf_source.py` are other people's tars and saved datasets; `folder.py`,
`listing.py` and `declared.py` are folders of triples; `division.py` is a split that a person made.
`families.py`, `meanings.py` and `suggest.py` look at what was refused and find the command that
works; `packed_tars.py` looks into compressed tars.
"""
