"""Prints what is installed beside this interpreter as a CycloneDX bill of materials, in JSON.

Of the image it lists the Python packages; those of the base image are its maker's to list.

    /opt/meshbridge/bin/python sbom.py requirements.lock > sbom.cdx.json
"""

import json
import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

_APPLICATION = "meshbridge"


def _key(name: str) -> str:
    """A name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _purl(distribution: Distribution) -> str:
    return f"pkg:pypi/{_key(distribution.name)}@{distribution.version}"


def _licenses(distribution: Distribution) -> list[dict[str, Any]]:
    def told(field: str) -> list[str]:
        return distribution.metadata.get_all(field) or []

    if expressions := told("License-Expression"):
        return [{"expression": expressions[0]}]
    names = [text.rpartition(" :: ")[2] for text in told("Classifier") if text.startswith("License :: ")]
    if not names:
        names = [text.splitlines()[0] for text in told("License") if text]
    return [{"license": {"name": name}} for name in names]


def _hashes(lock: str) -> dict[str, list[str]]:
    """SHA-256 of every file that may have been installed, by package."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in lock.splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==", line):
            name = _key(match[1])
        found.setdefault(name, []).extend(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    return found


def _needs(distribution: Distribution, known: dict[str, Distribution]) -> list[str]:
    names = {_key(match[0]) for text in distribution.requires or () if (match := re.match(r"[A-Za-z0-9._-]+", text))}
    return sorted(_purl(known[name]) for name in names & known.keys())


def bill_of_materials(installed: Iterable[Distribution], lock: str) -> dict[str, Any]:
    """CycloneDX 1.6. The same packages give the same text: no time, no serial number."""
    known = {_key(distribution.name): distribution for distribution in installed}
    hashes = _hashes(lock)

    def component(name: str, kind: str) -> dict[str, Any]:
        distribution = known[name]
        described: dict[str, Any] = {
            "type": kind,
            "bom-ref": _purl(distribution),
            "name": distribution.name,
            "version": distribution.version,
            "purl": _purl(distribution),
            "licenses": _licenses(distribution),
        }
        if name in hashes:
            files = {
                "type": "distribution",
                "url": f"https://pypi.org/project/{name}/{distribution.version}/",
                "hashes": [{"alg": "SHA-256", "content": content} for content in hashes[name]],
            }
            described["externalReferences"] = [files]
        return described

    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component(_APPLICATION, "application")},
        "components": [component(name, "library") for name in sorted(known) if name != _APPLICATION],
        "dependencies": [
            {"ref": _purl(known[name]), "dependsOn": _needs(known[name], known)} for name in sorted(known)
        ],
    }


if __name__ == "__main__":
    print(json.dumps(bill_of_materials(distributions(), Path(sys.argv[1]).read_text(encoding="utf-8")), indent=1))
