"""The timeline of a session: its turns and checkpoints as the journal tells them, and where undo, redo and
rewind would go. Pure: nothing is read or moved here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field, replace
from typing import Any

from runner.dataclass import dataclass
from runner.effects import CallServer, RunCommand, StopTask, WritePath
from runner.errors import UsageError
from runner.events import (
    Applied,
    CheckpointTaken,
    Egress,
    Event,
    Forked,
    HeadMoved,
    HookRan,
    Judged,
    PromptGiven,
    TurnEnded,
)

START = "start of turn"
CALL = "call"
END = "end of turn"
TEXT = 200
WRITES = frozenset(effect.__name__ for effect in (RunCommand, WritePath, StopTask, CallServer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn. `parent`: the record before its prompt; `checkpoint`: what the files were before its first
    write, "" where nothing was kept until its end. `here`: it is part of the conversation as it stands.
    """

    number: int
    seq: int
    prompt: str
    parent: str
    text: str
    checkpoint: str
    here: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Where to go: the record that history goes on from, the checkpoint of the files ("": they stay), and the
    turns and outside effects that lie between.
    """

    to: str
    checkpoint: str
    turns: tuple[Turn, ...] = ()
    not_undone: tuple[str, ...] = ()


@dataclass(slots=True)
class Timeline:
    """`read` makes one. `present`: the checkpoint of the files now; `head`: the record that the next follows."""

    turns: list[Turn] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    present: str = ""
    head: str = ""
    _undone: list[HeadMoved] = field(default_factory=list)
    _outside: list[tuple[int, str]] = field(default_factory=list)

    @classmethod
    def read(cls, events: Iterable[Event], *, path: set[str], head: str) -> Timeline:
        """From all records in their order; `path`: ids of those from the root to `head`."""
        made, tools = cls(head=head), dict[str, str]()
        for event in events:
            made._explain(event)
            made._take(event, tools, here=event.id in path)
        return made

    def _take(self, event: Event, tools: dict[str, str], *, here: bool) -> None:
        match event.body:
            case PromptGiven(source="user", content=content):
                self._take_prompt(event, content, here=here)
            case Judged(call=call, tool=tool):
                tools[call] = tool
            case CheckpointTaken() as body:
                self._take_checkpoint(event, body, tools, here=here)
            case HeadMoved(kind=kind) as body:
                if kind == "redo":
                    self._undone = self._undone[:-1]
                else:
                    self._undone.append(body)
                self.present = body.checkpoint or self.present
            case Forked(direction="from"):
                self._undone.clear()  # what was taken back before lies in the origin
            case _:
                if outside := _outside(event):
                    self._outside.append((event.seq, outside))

    def _take_prompt(self, event: Event, content: list[Any], *, here: bool) -> None:
        self._undone.clear()
        self.turns.append(
            Turn(
                number=event.turn,
                seq=event.seq,
                prompt=event.id,
                parent=event.parent,
                text=_text(content),
                checkpoint=self.present,
                here=here,
            )
        )

    def _take_checkpoint(self, event: Event, body: CheckpointTaken, tools: dict[str, str], *, here: bool) -> None:
        self.present = body.checkpoint
        turn = self.turns[-1] if self.turns else None
        if body.label == START and turn is not None and turn.number == event.turn:
            self.turns[-1] = replace(turn, checkpoint=body.checkpoint)
        self.checkpoints.append(
            {
                "checkpoint": body.checkpoint,
                "at": event.at,
                "turn": event.turn,
                "label": body.label,
                "tool": tools.get(body.before, ""),
                "files": body.files,
                "changed": list(body.changed),
                "size": body.size,
                "way": body.way,
                "here": here,
            }
        )

    def _explain(self, event: Event) -> None:
        """What a checkpoint that was taken while the model thought turns out to be for: the next call, or the end."""
        last = self.checkpoints[-1] if self.checkpoints else None
        if last is None or (last["label"], last["tool"], last["turn"]) != (CALL, "", event.turn):
            return
        match event.body:
            case Judged(tool=tool, effects=effects) if any(effect.get("type") in WRITES for effect in effects):
                last["tool"] = tool
            case TurnEnded():
                last["label"] = END
            case _:
                pass

    def needed(self, turns: int) -> set[str]:
        """The checkpoints that a session may still want whatever is collected: the present one, all since the
        beginning of the last `turns` turns, and what a redo would go to.
        """
        here = [turn for turn in self.turns if turn.here][-turns:] if turns else []
        first = min((turn.number for turn in here), default=None)
        kept = {self.present} | {move.before for move in self._undone} | {move.checkpoint for move in self._undone}
        kept |= {turn.checkpoint for turn in here}
        if first is not None:
            kept |= {row["checkpoint"] for row in self.checkpoints if row["turn"] >= first}
        return kept - {""}

    def undo(self, steps: int) -> Goal:
        """Before the last `steps` turns. Raises UsageError."""
        turns = [turn for turn in self.turns if turn.here]
        if not turns:
            raise UsageError("there is no turn to take back")
        if not 0 < steps <= len(turns):
            raise UsageError(f"there are {len(turns)} turns to take back, not {steps}")
        return self._before(turns[-steps])

    def redo(self) -> tuple[Goal, str]:
        """Back to where the last undo came from, and what it moved. Raises UsageError."""
        if not self._undone:
            raise UsageError("there is nothing to redo")
        last = self._undone[-1]
        return Goal(to=last.left, checkpoint=last.before), last.what

    def rewind(self, target: str) -> Goal:
        """To a checkpoint, or before a message (its number, or its record's id). Raises UsageError."""
        if len(target) < 4 and target.isdigit():
            named = [turn for turn in self.turns if turn.number == int(target)]
        else:
            named = [turn for turn in self.turns if turn.prompt.startswith(target)]
        if named:
            return self._before(named[-1])
        rows = [row for row in self.checkpoints if row["checkpoint"].startswith(target)]
        if len(rows) != 1:
            why = f"fits {len(rows)} checkpoints" if rows else "is neither a message nor a checkpoint"
            raise UsageError(f"{target!r} {why} (see: fumehood checkpoints)")
        row = rows[0]
        after = [
            turn
            for turn in self.turns
            if turn.number > row["turn"] or (turn.number == row["turn"] and row["label"] == START)
        ]
        goal = self._before(after[0]) if after else Goal(to=self.head, checkpoint="")
        return replace(goal, checkpoint=row["checkpoint"])

    def _before(self, turn: Turn) -> Goal:
        later = tuple(each for each in self.turns if each.seq >= turn.seq and each.here)
        kept = [each.checkpoint for each in self.turns if each.seq >= turn.seq and each.checkpoint]
        outside = tuple(text for seq, text in self._outside if seq > turn.seq)
        return Goal(to=turn.parent, checkpoint=kept[0] if kept else "", turns=later, not_undone=outside)


def _text(content: list[Any]) -> str:
    texts = [str(block.get("text", "")) for block in content if isinstance(block, dict)]
    return " ".join(" ".join(texts).split())[:TEXT]


def _outside(event: Event) -> str:
    """What left the box, "" where nothing did."""
    match event.body:
        case HookRan(where="host", hook=hook):
            return f"a hook ran on the host: {hook[:80]}"
        case Applied(count=count):
            return f"apply wrote {count} paths on the host"
        case Egress(method=method, host=host, verdict={"decision": "allow", **more}) if not more.get("replayed"):
            return f"{method} {host}"
        case _:
            return ""
