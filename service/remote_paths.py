"""Addresses such as https://... and s3://... given where a local path is expected. They are never fetched."""

import re
from pathlib import Path

# Path("https://host/file") has one slash.
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+(?P<rest>.+)")
_DOWNLOADS = {
    "http": "curl -LO {address}",
    "https": "curl -LO {address}",
    "s3": "aws s3 cp --recursive {address} FOLDER",
    "gs": "gcloud storage cp -r {address} FOLDER",
    "hf": "hf download OWNER/NAME --local-dir FOLDER",
}


def rejection(path: Path) -> str:
    """Why an address cannot be used, and what to do; "" for a path."""
    match = _ADDRESS.fullmatch(str(path))
    if match is None or path.exists():
        return ""
    scheme, rest = match["scheme"].lower(), match["rest"]
    if scheme == "file":
        return f"file:///{rest} is an address. Pass the path: /{rest}"
    address = f"{scheme}://{rest}"
    command = _DOWNLOADS.get(scheme, "").format(address=address)
    example = f", for example with: {command}" if command else "."
    return f"{address} is not fetched: Graft reads local files only. Download it, and pass the file or folder{example}"
