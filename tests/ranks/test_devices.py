from __future__ import annotations

import pytest

from wdtrain.ranks.devices import KNOWN_DEVICES, parse_device


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("T4", "T4 16GB"),
        ("tesla t4", "T4 16GB"),
        ("A100-80GB", "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090 24GB"),
        ("4090", "RTX 4090 24GB"),
        ("gtx 1080ti", "GTX 1080 Ti 11GB"),
        ("a10g", "A10G 24GB"),
        ("A10", "A10 24GB"),
        ("h200", "H200 141GB"),
        *((name, name) for name in KNOWN_DEVICES),
    ],
)
def test_gpus_are_found_by_the_names_that_people_and_drivers_write(text, known):
    assert parse_device(text) == (known, int(KNOWN_DEVICES[known] * 2**30))


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("24GiB", 24 * 2**30), ("512 MiB", 2**29), ("80GB", 80 * 10**9), ("1.5GiB", 3 * 2**29)],
)
def test_a_device_may_be_given_by_its_memory(text, size_bytes):
    assert parse_device(text)[1] == size_bytes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A100", "could be A100 40GB or A100 80GB"),
        ("V100", "could be V100 16GB or V100 32GB"),
        ("GPU", "is not known.*give it as 24GiB, or one of: GTX 1080 Ti 11GB"),
        ("24", "is not known"),
        ("", "is not known"),
        ("-1GiB", "is not known"),
        ("0GiB", "is not known"),
    ],
)
def test_a_device_that_is_not_known_is_refused_with_the_list(text, said):
    with pytest.raises(ValueError, match=said):
        parse_device(text)
