"""Writes the bill of materials of the service image: the Python packages of its lock file, in CycloneDX 1.6.

    .venv/bin/python deploy/supply_chain/sbom.py build/graft-service.cdx.json

Versions, digests and dependencies are those of the lock file, licenses those of the installed packages, where they are the same
version. The same lock gives the same bytes. The base image's own packages are not in it: they depend on `BASE_IMAGE`.
"""

import json
import sys
import tomllib
import uuid
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from lock_file import ROOT, SERVICE_LOCK, LockedPackage, read_lock

PROJECT = "graft-vision"
MAX_LICENSE_NAME = 64  # characters; longer ones are the whole license


def bill_of_materials(packages: list[LockedPackage], version: str) -> dict[str, Any]:
    """The document for the service of one version."""
    refs = {PROJECT: f"{PROJECT}@{version}"} | {package.name: _purl(package) for package in packages}
    required_by = {package.name: package.required_by for package in packages}
    content = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {"type": "container", "bom-ref": refs[PROJECT], "name": "graft-service", "version": version},
            "tools": {"components": [{"type": "application", "name": "deploy/supply_chain/sbom.py", "version": version}]},
        },
        "components": [_component(package) for package in packages],
        "dependencies": [
            {"ref": refs[name], "dependsOn": [refs[other] for other in required_by if name in required_by[other]]}
            for name in refs
        ],
    }
    digest = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))
    return content | {"serialNumber": f"urn:uuid:{digest}"}


def _component(package: LockedPackage) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(package),
        "name": package.name,
        "version": package.version,
        "purl": _purl(package),
        # Of every file from which the lock allows this version to be installed: the wheels of all platforms, and the source.
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in sorted(set(package.sha256))],
    }
    if package.marker:
        component |= {"scope": "optional", "properties": [{"name": "graft:marker", "value": package.marker}]}
    if license_name := _license(package):
        component["licenses"] = [license_name]
    return component


def _license(package: LockedPackage) -> dict[str, Any] | None:
    """The license that the installed package declares; None if it declares none, or is another version."""
    try:
        installed = metadata(package.name)
    except PackageNotFoundError:
        return None
    if installed["Version"] != package.version:
        return None
    if expression := installed["License-Expression"]:
        return {"expression": expression}
    classifiers = [text for text in installed.get_all("Classifier", []) if text.startswith("License :: OSI Approved :: ")]
    name = classifiers[0].rpartition(" :: ")[2] if classifiers else installed["License"] or ""
    return {"license": {"name": name}} if 0 < len(name) <= MAX_LICENSE_NAME else None


def _purl(package: LockedPackage) -> str:
    return f"pkg:pypi/{package.name}@{package.version}"


def main(target: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    content = bill_of_materials(read_lock(SERVICE_LOCK), project["version"])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{target}: {len(content['components'])} packages")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
