"""Amounts of memory as people write them."""

import argparse
import re

from ..offloading.memory_plan import GIB

UNITS = {"": GIB, "g": GIB, "gb": GIB, "gib": GIB, "m": 2**20, "mb": 2**20, "mib": 2**20}  # memory is sold in these


def memory_size(text: str) -> int:
    """``12GiB``, ``12GB`` and ``12`` (all GiB) or ``512MiB`` -> bytes, for argparse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if not match or match[2] not in UNITS or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; write it in GiB, such as 12GiB")
    return int(float(match[1]) * UNITS[match[2]])


def memory_size_or_auto(text: str) -> int | None:
    """None for ``auto``."""
    return None if text == "auto" else memory_size(text)
