"""Measured sections as JSON files, so that they can be measured one at a time."""

import json
from dataclasses import asdict
from pathlib import Path

from measure.model import Section


def save(section: Section, directory: Path) -> Path:
    """Write a section; the file is complete or not there."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{section.name}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(section), indent=1) + "\n")
    part.replace(path)
    return path


def load(path: Path) -> Section:
    """Read a section; a field that is missing or of another type is an error."""
    # Imported here: the guest only saves, and what reads is the host.
    from pydantic import TypeAdapter

    return TypeAdapter(Section).validate_json(path.read_bytes())


def load_all(directory: Path) -> dict[str, Section]:
    """All sections that were measured, by name."""
    return {path.stem: load(path) for path in sorted(directory.glob("*.json"))}
