"""How much main memory is left to this process, on any system, in any container."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
# Files of a control group, by version: its limit, what it uses, and what of that are files that it gives up when asked.
FILES = {
    2: ("memory.max", "memory.current", ("active_file", "inactive_file")),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
}


def free_memory() -> int:
    """Bytes of main memory that this process could still take; 0 where the system does not tell."""
    left = [_left_in(group, version) for group, version in _control_groups()]
    return int(max(0, min([_system_memory(), *left])))


def _control_groups() -> Iterator[tuple[Path, int]]:
    """The process's own and those around it: a container, a service or a job may have less than its machine."""
    lines = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    for line in lines:
        _, controllers, name = line.split(":", 2)
        version = 1 if "memory" in controllers.split(",") else 2
        if version == 1 or not controllers:
            root = GROUPS / "memory" if version == 1 else GROUPS
            own = root / name.strip("/")  # in a container this may be the name outside, and only the root is there
            yield from ((group, version) for group in (own, *own.parents) if group.is_relative_to(root))


def _left_in(group: Path, version: int) -> float:
    """Bytes that ``group`` may still take; infinite where it has no limit."""
    limit, used, kept = FILES[version]
    with contextlib.suppress(OSError, ValueError, KeyError):  # no such group; "max" is no number
        found = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        of_files = sum(int(found[name]) for name in kept)
        return int((group / limit).read_text()) - int((group / used).read_text()) + of_files
    return float("inf")


def _system_memory() -> int:
    if sys.platform == "win32":
        return _windows_memory()
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(AttributeError, OSError, ValueError):  # each says "not here" on some system
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = [
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        ("total", ctypes.c_ulonglong),
        ("available", ctypes.c_ulonglong),
        ("others", ctypes.c_ulonglong * 5),
    ]


def _windows_memory() -> int:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    found = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # pyright: ignore[reportAttributeAccessIssue]
    return status.available if found else 0
