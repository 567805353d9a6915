"""Make triples: the procedural playground, cut-outs over backgrounds.

`parse_source` turns a specification such as `playground:count=1000,size=64` into a source.
No torch in here.
"""

from __future__ import annotations

from wdtrain.scenes.spec import parse_source

__all__ = ["parse_source"]
