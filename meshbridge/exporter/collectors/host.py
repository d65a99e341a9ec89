"""``appmesh_host_*``: the host's resources as the daemon sees them, in base units."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from meshbridge.exporter.collectors import Deadline, InvalidAnswerError
from meshbridge.exporter.exposition import Family, escape_help, labels, number
from meshbridge.exporter.sources import DaemonSource

__all__ = ["HostCollector", "host_families"]

_GAUGES = {
    "cpu_processors": ("cpus", "Logical processors of the host"),
    "cpu_effective_processors": ("cpus_effective", "Logical processors that the daemon may use"),
    "cpu_cores": ("cpu_physical_cores", "Physical cores of the host"),
    "cpu_sockets": ("cpu_sockets", "Processor sockets of the host"),
    "cpu_quota_cores": ("cpu_quota_cores", "CPU that the control group may use, in cores; 0 for no limit"),
    "mem_total_bytes": ("memory_total_bytes", "Memory of the host, or of the control group where it has a limit"),
    "mem_available_bytes": ("memory_available_bytes", "Memory that can be had without swapping"),
    "mem_current_bytes": ("memory_used_bytes", "Memory in use"),
    "mem_applications": ("memory_apps_bytes", "Resident memory of all apps' process trees"),
    "mem_daemon_process_tree_bytes": ("memory_daemon_bytes", "Resident memory of the daemon's process tree"),
    "mem_swap_total_bytes": ("swap_total_bytes", "Swap space"),
    "mem_swap_free_bytes": ("swap_free_bytes", "Swap space that is free"),
    "mem_swap_current_bytes": ("swap_used_bytes", "Swap space in use"),
    "fd": ("daemon_open_fds", "Open file descriptors of the daemon"),
    "appmesh_start_time_unix_seconds": ("daemon_start_timestamp_seconds", "When the daemon started"),
    "collected_at_unix_seconds": ("time_seconds", "The host's clock when the daemon collected these figures"),
}
_LOADS = {"1min": "1", "5min": "5", "15min": "15"}
_FILESYSTEM = {
    "size": ("filesystem_size_bytes", "Size of the file system"),
    "available": ("filesystem_avail_bytes", "Space of the file system that users without privileges can have"),
    "used": ("filesystem_used_bytes", "Space of the file system in use"),
}
_INFO = {
    "hostname": "host_name",
    "os": "os",
    "architecture": "architecture",
    "appmesh_version": "appmesh_version",
    "cgroup_version": "cgroup_version",
    "in_container": "in_container",
    "description": "host_description",
}


class HostCollector:
    def __init__(self, source: DaemonSource) -> None:
        self.dropped: Counter[str] = Counter()
        self._source = source

    def collect(self, deadline: Deadline) -> list[Family]:
        resources = self._source.get_host_resources(deadline.remaining_seconds)
        if not isinstance(resources, dict):
            raise InvalidAnswerError(f"the host's resources are no object but {type(resources).__name__}")
        return list(host_families(self._source.name, resources))


def host_families(daemon: str, resources: Mapping[str, Any]) -> Iterator[Family]:
    """What the daemon leaves out, or gives as no number, has no series."""
    own = {"daemon": daemon}
    info = {label: _word(resources.get(field)) for label, field in _INFO.items()}
    yield _gauge("info", "What is known of the host that is no number", [(own | info, 1)])
    for field, (name, text) in _GAUGES.items():
        yield _gauge(name, text, [(own, resources.get(field))])
    load = _object(resources.get("load"))
    for field, minutes in _LOADS.items():
        yield _gauge(f"load{minutes}", f"Load average over {minutes} min", [(own, load.get(field))])
    mounts = {
        (_word(entry.get("device")), _word(entry.get("mount_point"))): entry for entry in _objects(resources.get("fs"))
    }
    for field, (name, text) in _FILESYSTEM.items():
        yield _gauge(
            name,
            text,
            [
                (own | {"device": device, "mount_point": mount_point}, entry.get(field))
                for (device, mount_point), entry in mounts.items()
            ],
        )
    addresses = {(_word(entry.get("name")), _word(entry.get("address"))) for entry in _objects(resources.get("net"))}
    yield _gauge(
        "network_address_info",
        "Addresses of the host",
        [(own | {"interface": interface, "address": address}, 1) for interface, address in sorted(addresses)],
    )
    errors = resources.get("collector_errors")
    yield _gauge(
        "collector_errors",
        "Figures of the host that the daemon could not collect",
        [(own, len(errors) if isinstance(errors, list) else None)],
    )


def _gauge(name: str, text: str, samples: list[tuple[dict[str, str], object]]) -> Family:
    family = Family(f"appmesh_host_{name}", "gauge", escape_help(text))
    family.add(
        f"appmesh_host_{name}{labels(pairs)} {value}" for pairs, raw in samples if (value := number(raw)) is not None
    )
    return family


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
