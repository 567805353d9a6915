"""What a tool says beside its progress, which a busy machine brings and a quick one does not."""

from __future__ import annotations

import re

_PROGRESS = re.compile(r"(?m)^[a-z]+: [\d,]+ of [\d,]+ \w+, [\d,]+ a second\n")


def without_progress(text: str) -> str:
    return _PROGRESS.sub("", text)
