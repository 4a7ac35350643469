"""Intents: what is about to become of a session's layers, written down before the first of them is renamed.

New directories lie beside the old ones (`new`, and `new.work` for the kernel; for a volume on another machine a
file `new` that names it); with the intent on record the step is decided, and whoever comes next carries it out.
Before it nothing happened. What is replaced goes to the trash, or becomes a frozen layer of the pool.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from sandbox.dataclass import dataclass
from sandbox.errors import StoreError
from sandbox.layers import LayerTable
from sandbox.remade import forget

INTENT_VERSION = 2  # 1 knew no frozen layers
RESTORE, FREEZE = "restore.json", "freeze.json"
TRASH = ".trash-"
NEW = "new"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """`layers`: name → what the new directory will be called. `lowers`: name → the frozen layers beneath it then.
    `frozen`: name → where the old directory goes; without it, to the trash. `checkpoint` and `note`: a restore's.
    """

    layers: Mapping[str, str]
    lowers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    frozen: Mapping[str, str] = field(default_factory=dict)
    checkpoint: str = ""
    note: Mapping[str, Any] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        """Whole or not at all, and durable."""
        body = {
            "version": INTENT_VERSION,
            "layers": dict(self.layers),
            "lowers": dict(self.lowers),
            "frozen": dict(self.frozen),
            "checkpoint": self.checkpoint,
            "note": dict(self.note),
        }
        new = file.with_suffix(".new")
        with new.open("w") as opened:
            json.dump(body, opened)
            opened.flush()
            os.fsync(opened.fileno())
        new.replace(file)

    @classmethod
    def read(cls, file: Path) -> Intent | None:
        """None where there is none. Raises StoreError."""
        try:
            body = json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreError(f"{file}: {error}") from error
        if not isinstance(body, dict) or body.get("version") not in (1, INTENT_VERSION):
            raise StoreError(f"{file} is of a version that is not known")
        return cls(
            layers=body["layers"],
            lowers={name: tuple(lowers) for name, lowers in body.get("lowers", {}).items()},
            frozen=body.get("frozen", {}),
            checkpoint=body["checkpoint"],
            note=body["note"],
        )


def finish(layers: Path, intent: Intent | None) -> None:
    """Carry out what an intent decided for the directory of all layers; move what was begun without one to the
    trash. No box may stand on what is replaced. Again is no harm.
    """
    wanted = intent.layers if intent else {}
    for new in layers.glob(f"*/{NEW}"):
        place = new.parent
        name = wanted.get(place.name)
        if intent is None or name is None:
            discard(new)
            continue
        frozen = intent.frozen.get(place.name)
        if frozen and (place / name).exists():
            (place / name).rename(frozen)
        for old in (place / name, place / "work"):
            discard(old)
        if name == "upper":
            work = place / "new.work"
            if work.exists():
                work.rename(place / "work")
            else:
                (place / "work").mkdir()
        else:
            forget(place)
        new.rename(place / name)
    for work in layers.glob("*/new.work"):
        discard(work)
    if intent is not None and intent.lowers:
        _restack(layers / "layers.json", intent.lowers)


def _restack(file: Path, lowers: Mapping[str, tuple[str, ...]]) -> None:
    table = LayerTable.read(file)
    if table is None:
        raise StoreError(f"{file} is missing")
    rows = tuple(replace(layer, lowers=lowers.get(layer.name, layer.lowers)) for layer in table.layers)
    if rows != table.layers:
        replace(table, layers=rows).write(file)


def finish_restore(layers: Path, file: Path) -> Intent | None:
    """After a crash: what was decided in the directory of all layers is carried out. `file`: a restore's intent
    (it stays until the conversation's part is done, too); a freeze's lies beside it. The restore's, if there is one.
    """
    freezing = file.with_name(FREEZE)
    for half in (freezing, file):  # cut off while it was written: nothing was decided
        half.with_suffix(".new").unlink(missing_ok=True)
    intent = Intent.read(freezing)
    if intent is not None:
        finish(layers, intent)
        freezing.unlink()
    intent = Intent.read(file)
    finish(layers, intent)
    return intent


def discard(target: Path) -> None:
    """Out of the way; `Checkpoints.empty_trash` removes it."""
    if target.exists():
        target.rename(target.with_name(TRASH + uuid.uuid4().hex[:8]))
