"""Devices: the one that is used, made ready; and common GPUs by name, for plans made elsewhere.

The surprise: "cuda" is not a device to all of PyTorch. Some of its calls take the current one for
it, others refuse it, so here and nowhere else it is given its index. And a card sold with 80 GB has
79.1 GiB for PyTorch, one sold with 16 GB has 14.6.
"""

from __future__ import annotations

import re
import warnings
from contextlib import suppress

import torch
import torch.nn.functional as F

from wdtrain.settings import parse_bytes


def indexed(device: torch.device | str) -> torch.device:
    """The same device; "cuda" becomes "cuda:N", the one that is current in this thread."""
    if str(device) == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(device)


def default_device() -> torch.device:
    """The current GPU with its index, or the CPU where there is none."""
    return indexed("cuda" if torch.cuda.is_available() else "cpu")


def exact_float32() -> None:
    """From now on float32 is float32 on CUDA, in this process: convolutions would otherwise round
    what they multiply to TF32, 10 bits of mantissa instead of 23."""
    with warnings.catch_warnings():
        # The newer setting must not be mixed with this one, which other packages still read.
        warnings.filterwarnings("ignore", "Please use the new API settings to control TF32")
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def warm_up(device: torch.device) -> None:
    """What a GPU takes once for itself is taken: its context, and the handles of cuDNN and cuBLAS.
    Memory that is measured before that is not there later."""
    if device.type != "cuda":
        return
    torch.cuda.set_device(device)
    picture = torch.ones(1, 8, 16, 16, device=device, requires_grad=True)
    passed = F.conv2d(picture, torch.ones(8, 8, 3, 3, device=device)).flatten(2)
    torch.autograd.backward((passed @ passed.mT).sum())
    torch.cuda.synchronize(device)


KNOWN_DEVICES: dict[str, float] = {
    "GTX 1080 Ti 11GB": 10.90,
    "RTX 2080 Ti 11GB": 10.57,
    "RTX 3060 12GB": 11.63,
    "RTX 3090 24GB": 23.55,
    "RTX 4080 16GB": 15.57,
    "RTX 4090 24GB": 23.51,
    "RTX 5090 32GB": 31.36,
    "RTX A6000 48GB": 47.40,
    "V100 16GB": 15.77,
    "V100 32GB": 31.73,
    "T4 16GB": 14.56,
    "A10 24GB": 21.98,
    "A10G 24GB": 21.98,
    "L4 24GB": 22.03,
    "L40S 48GB": 44.39,
    "A100 40GB": 39.38,
    "A100 80GB": 79.14,
    "H100 80GB": 79.10,
    "H200 141GB": 139.7,
    "B200 180GB": 178.3,
}
"""GiB of common GPUs as PyTorch sees them ("total capacity"): 1 to 5 % below what nvidia-smi says,
and the least that drivers leave."""


def parse_device(text: str) -> tuple[str, int]:
    """(what it is called, its memory in bytes) of "24GiB", or of a GPU by name: "T4", "A100-80GB",
    "NVIDIA H100 80GB HBM3". Raises ValueError with the list for a name it does not know."""
    if re.fullmatch(r"[0-9.]+ ?[A-Za-z]i?B", text.strip()):  # "4090" is a name
        with suppress(ValueError):
            return f"a device of {text.strip()}", parse_bytes(text)
    names = {known: _plain(known) for known in KNOWN_DEVICES}
    wanted = _plain(text)
    fitting = [
        known
        for known, plain in names.items()
        if wanted in (plain, _plain(known.rsplit(" ", 1)[0]))
    ]
    if len(fitting) == 1:
        return fitting[0], int(KNOWN_DEVICES[fitting[0]] * 2**30)
    found = f"could be {' or '.join(fitting)}" if fitting else "is not known"
    raise ValueError(
        f"device {text!r} {found}, so its memory is not known; give it as 24GiB, or one of: "
        f"{', '.join(KNOWN_DEVICES)}"
    )


def _plain(name: str) -> str:
    """A GPU's name without what people and drivers add to it: makers, sockets, dashes."""
    words = r"nvidia|geforce|tesla|quadro|rtx|gtx|sxm\d?|pcie|hbm\d?e?|gi?b|[^a-z0-9]"
    return re.sub(words, "", name.lower())
