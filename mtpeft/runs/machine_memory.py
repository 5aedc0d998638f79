"""How much memory a device has left."""

from __future__ import annotations

import re
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a program can still get on `device`; None where the system does not say."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    found = re.search(r"^MemAvailable:\s+(\d+) kB", MEMINFO.read_text() if MEMINFO.is_file() else "", re.MULTILINE)
    return 1024 * int(found[1]) if device.type == "cpu" and found else None
