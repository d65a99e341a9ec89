"""``GET /appmesh/resources``: the host as /proc and the file system show it (``golden``: get_host_resources)."""

import contextlib
import fcntl
import os
import platform
import socket
import struct
import time
from pathlib import Path
from typing import Any

from meshbridge.emulator import clock, procfs

SCHEMA_VERSION = 3
_SIOCGIFADDR = 0x8915
_REAL_FILE_SYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "overlay"})


def host_resources(
    *, start_time: int, version: str, node_name: str, description: str, home: Path, apps: list[int]
) -> dict[str, Any]:
    """``apps``: pids of the running apps, whose memory is counted apart."""
    now = time.time()
    memory = _memory()
    processes = procfs.Snapshot()
    tree = processes.usage(os.getpid())
    processors = os.cpu_count() or 1
    effective = len(os.sched_getaffinity(0))
    return {
        "appmesh_start_time": clock.text(start_time),
        "appmesh_start_time_unix_seconds": start_time,
        "appmesh_version": version,
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "cgroup_version": "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1",
        "collected_at_unix_seconds": int(now),
        "collector_errors": [],
        "cpu_cores": processors,
        "cpu_effective_processors": effective,
        "cpu_processors": processors,
        "cpu_quota_cores": 0.0,
        "cpu_sockets": 1,
        "cpu_source": "host",
        "fd": procfs.open_fds(os.getpid()),
        "fs": _file_systems(),
        "home": str(home),
        "host_description": description,
        "host_name": node_name,
        "in_container": Path("/.dockerenv").exists(),
        "load": dict(zip(("1min", "5min", "15min"), os.getloadavg(), strict=True)),
        "mem_applications": sum(processes.usage(pid).memory_bytes for pid in apps),
        "mem_available_bytes": memory["MemAvailable"],
        "mem_current_bytes": memory["MemTotal"] - memory["MemAvailable"],
        "mem_daemon_process_tree_bytes": tree.memory_bytes,
        "mem_swap_current_bytes": memory["SwapTotal"] - memory["SwapFree"],
        "mem_swap_free_bytes": memory["SwapFree"],
        "mem_swap_total_bytes": memory["SwapTotal"],
        "mem_total_bytes": memory["MemTotal"],
        "memory_source": "host",
        "net": _addresses(),
        "os": "linux",
        "os_user": procfs.user_name(os.geteuid()),
        "pid": os.getpid(),
        "schema_version": SCHEMA_VERSION,
        "swap_source": "host",
        "systime": clock.text(now),
    }


def _memory() -> dict[str, int]:
    """Bytes by the names of /proc/meminfo."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return {name: found.get(name, 0) for name in ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")}


def _file_systems() -> list[dict[str, Any]]:
    shown: dict[str, dict[str, Any]] = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, mount_point, kind = line.split()[:3]
        if kind not in _REAL_FILE_SYSTEMS or device in shown:
            continue
        with contextlib.suppress(OSError):
            shown[device] = _file_system(device, mount_point)
    # In a chroot the mounts of the host can't be seen.
    return list(shown.values()) or [_file_system("rootfs", "/")]


def _file_system(device: str, mount_point: str) -> dict[str, Any]:
    space = os.statvfs(mount_point)
    size = space.f_blocks * space.f_frsize
    used = size - space.f_bfree * space.f_frsize
    return {
        "available": space.f_bavail * space.f_frsize,
        "device": device,
        "mount_point": mount_point,
        "size": size,
        "usage": used / size if size else 0.0,
        "used": used,
    }


def _addresses() -> list[dict[str, Any]]:
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _index, name in socket.if_nameindex():
            if name == "lo":
                continue
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no address
                continue
            found.append({"address": socket.inet_ntoa(answer[20:24]), "ipv6": False, "name": name})
    return found
