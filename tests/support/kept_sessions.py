"""Sessions at rest with checkpoints and a journal, made without a box."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from runner.events import CheckpointTaken, HeadMoved, PromptGiven, SessionStarted, TurnEnded, TurnStarted
from runner.journal import Journal
from runner.sessions.store import Store
from runner.spec import RootRef, SessionSpec
from sandbox.freezing import AtRest
from sandbox.pool import Pool
from tests.support.layers_by_hand import Shape
from tests.support.past import PastStage


class KeptSession:
    """`turn` does what a turn would: its files, its checkpoints at `at`, its records. `rest` ends the work on it."""

    def __init__(self, store: Store, base: Path) -> None:
        self.store, self.id = store, str(uuid.uuid4())
        base.mkdir(parents=True)
        spec = SessionSpec(
            session=self.id,
            cwd=str(base / "host"),
            roots=(RootRef(host=str(base / "host"), at="/workspace/root", name="root"),),
            model="scripted:/x",
        )
        self.directory = store.save(spec).directory
        self.pool = Pool(store.layers, sessions=store.sessions)
        self.stage = PastStage(base, {"f": (0o644, b"begun\n")}, state=self.directory, session=self.id, pool=self.pool)
        self.journal = Journal.create(self.directory, session=self.id)
        self.journal.append(SessionStarted(spec=spec.to_json(), version="0"))
        self.log = self.directory / "store" / "checkpoints"
        self.points: list[str] = []
        self.turns = 0

    def turn(self, shape: Shape, *, at: float = 0.0, ended: bool = True) -> str:
        self.turns += 1
        number = self.turns
        self.journal.append(PromptGiven(content=[{"type": "text", "text": f"turn {number}"}]), turn=number)
        self.journal.append(TurnStarted(number=number), turn=number)
        checkpoints = self.stage.workspace.checkpoints
        if at:
            checkpoints._clock = lambda: at
        for label, wanted in (("start of turn", None), ("end of turn", shape)):
            if wanted is not None:
                self.stage.turn(wanted)
            if (made := checkpoints.take(label)) is not None:
                self.points.append(made.id)
                body = CheckpointTaken(checkpoint=made.id, label=label, files=made.files, size=made.size, seconds=0)
                self.journal.append(body, turn=number)
        if ended:
            end = TurnEnded(
                number=number, reason="completed", result="", rounds=1, seconds=1, api_seconds=1, usage={}, cost=None
            )
            self.journal.append(end, turn=number)
        return checkpoints.present

    def frozen_turn(self, name: str, *, at: float) -> str:
        """A turn that makes so many files that the layer is frozen."""
        checkpoints = self.stage.workspace.checkpoints
        checkpoints.most, checkpoints._clock = (10, 1 << 30), lambda: at
        self.turns += 1
        self.journal.append(PromptGiven(content=[{"type": "text", "text": name}]), turn=self.turns)
        for number in range(20):
            (self.stage.layers / "root" / "upper" / f"{name}{number}").write_text(f"{name} {number}\n")
        made = checkpoints.take("end of turn", swap=AtRest())
        assert made is not None
        assert made.way == "rest"
        self.points.append(made.id)
        body = CheckpointTaken(checkpoint=made.id, label=made.label, files=made.files, size=made.size, seconds=0)
        self.journal.append(body, turn=self.turns)
        return made.id

    def undo(self, to: str) -> None:
        """As an undo leaves it: the files at `to`, and what a redo would need."""
        checkpoints = self.stage.workspace.checkpoints
        before = checkpoints.present
        checkpoints.restore(to)
        checkpoints.settle()
        checkpoints.empty_trash()
        head = self.journal.head()
        self.journal.append(HeadMoved(to=head, reason="undone", left=head, before=before, checkpoint=to))

    def rest(self, *, updated: float = 0.0) -> None:
        self.stage.workspace.checkpoints.close()
        self.journal.close()
        if updated:
            for name in ("journal.jsonl", "spec.json"):
                os.utime(self.directory / name, (updated, updated))
