"""A plan that was measured is found again for the same, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import torch

from wdtrain.record.plan_cache import KeptPlan, device_facts
from wdtrain.record.process_memory import measure_memory, save_snapshot

FACTS = {"device": "cuda", "name": "a GPU", "budget": 64, "tasks.mask.network": "seed-mask"}


def test_a_plan_is_found_again_for_the_same_facts_alone(tmp_path: Path) -> None:
    plan = {"mask": {"micro_batch": 512, "probes": [{"micro_batch": 32}]}}
    KeptPlan(FACTS, tmp_path).save(plan)
    assert KeptPlan(dict(reversed(FACTS.items())), tmp_path).load() == plan
    for name in FACTS:
        assert KeptPlan({**FACTS, name: "other"}, tmp_path).load() is None


def test_what_cannot_be_read_or_written_is_measured_again(tmp_path: Path) -> None:
    kept = KeptPlan(FACTS, tmp_path)
    kept.path.write_text("{torn")
    assert kept.load() is None
    kept.path.write_text("[]")
    assert kept.load() is None
    (tmp_path / "file").touch()
    KeptPlan(FACTS, tmp_path / "file").save({})  # no folder can be made there


def test_plans_lie_in_the_users_cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    KeptPlan(FACTS).save({"mask": {}})
    assert [path.suffix for path in (tmp_path / "wdtrain" / "plans").iterdir()] == [".json"]


def test_what_drives_a_device_is_a_fact_of_it() -> None:
    facts = device_facts(torch.device("cpu"))
    assert facts["torch"] == torch.__version__


def test_a_snapshot_of_a_gpus_memory_is_kept_and_none_of_a_host(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", lambda path: Path(path).touch())
    monkeypatch.setenv("RANK", "3")
    assert save_snapshot(tmp_path, torch.device("cpu")) is None
    path = save_snapshot(tmp_path, torch.device("cuda"))
    assert path == tmp_path / "memory-rank-3.pickle"
    assert path.exists()


def test_the_peak_is_never_below_what_is_used() -> None:
    memory = measure_memory("cpu")
    assert memory.peak_bytes >= memory.used_bytes > 0
