"""`masks.json`: what is masked in the layers of a session, kept for whoever reads them later (`sandbox.covers`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from sandbox.dataclass import dataclass
from sandbox.errors import StoreError
from sandbox.masks import NO_MASKS, Masks

VERSION = 1


@dataclass(slots=True)
class Known:
    """Of one layer. `planted`: where placeholders of ours lie in what the box may write: they stay no change of the
    session's, whatever settings want later. `rung`: on which it was masked.
    """

    rung: str = ""
    hidden: dict[str, bool] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    planted: list[str] = field(default_factory=list)


def read_known(file: Path) -> tuple[Masks, dict[str, Known]]:
    """The masks of the last time, and what they masked by layer; nothing where there is no file. Raises StoreError
    for a damaged or newer one.
    """
    try:
        body: dict[str, Any] = json.loads(file.read_bytes())
        if body["version"] != VERSION:
            raise StoreError(f"{file}: version {body['version']} is not known")
        known = {
            str(name): Known(
                rung=str(row["rung"]),
                hidden={str(path): bool(kind) for path, kind in row["hidden"].items()},
                replaced=list(map(str, row["replaced"])),
                kept=list(map(str, row["kept"])),
                planted=list(map(str, row["planted"])),
            )
            for name, row in body["layers"].items()
        }
        return Masks.from_json(body["masks"]), known
    except FileNotFoundError:
        return NO_MASKS, {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{file}: {error}") from error


def write_known(file: Path, masks: Masks, known: Mapping[str, Known]) -> None:
    """Whole or not at all."""
    rows = {
        name: {
            "rung": one.rung,
            "hidden": one.hidden,
            "replaced": one.replaced,
            "kept": one.kept,
            "planted": one.planted,
        }
        for name, one in known.items()
    }
    body = {"version": VERSION, "masks": masks.to_json(), "layers": rows}
    new = file.with_suffix(".new")
    new.write_text(json.dumps(body) + "\n")
    new.replace(file)
