"""Files behind URLs: ranges of them, tried again where a network fails, read ahead, kept on disk.

Read `access.py` (a file here or anywhere), `urls.py` (paths and URLs as text), `remote_files.py`,
`transport.py` (one request), `retries.py`, `prefetcher.py`, `range_cache.py`.
"""
