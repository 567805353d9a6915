"""Plans that were measured, kept for the next run on the same device by the same recipe.

One small JSON file a plan, in the user's cache folder. Whatever cannot be read there is as good as
not there: a plan is measured again in seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wdtrain.disk.durable import write_whole


def device_facts(device: torch.device) -> dict[str, Any]:
    """What of a device, and of what drives it, a measured plan depends on."""
    facts: dict[str, Any] = {"device": str(device.type), "torch": torch.__version__}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"name": properties.name, "bytes": properties.total_memory}
        facts |= {"cuda": torch.version.cuda, "chip": torch.cuda.get_device_capability(device)}
    return facts


class KeptPlan:
    """The plan for exactly these facts (JSON-able), if one was kept."""

    def __init__(self, facts: Mapping[str, Any], folder: Path | None = None) -> None:
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = folder or Path(base) / "wdtrain" / "plans"
        self.path = folder / f"{digest.hexdigest()[:32]}.json"

    def load(self) -> dict[str, Any] | None:
        try:
            plan = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return None
        return plan if isinstance(plan, dict) else None

    def save(self, plan: Mapping[str, Any]) -> None:
        """The plan is kept; where that cannot be written, it is measured again next time."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps(plan).encode())
        except OSError:
            return
