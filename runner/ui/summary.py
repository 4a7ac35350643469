"""The end of a run: how it ended, what it used, what changed in the box, and the commands that go on."""

from __future__ import annotations

from rich.text import Text

from runner.dataclass import dataclass
from runner.ui.glyphs import UNICODE, Glyphs
from runner.ui.safe import one_line
from runner.ui.view import ViewState
from runner.ui.words import duration, ended, money, plural, tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeCount:
    """What the box holds that the host does not: files, and lines where they could be counted."""

    files: int
    added: int = 0
    removed: int = 0


_COMMANDS = (
    ("diff", "see the changes"),
    ("apply", "take them into your files"),
    ("discard", "throw them away"),
)


def summary(
    view: ViewState, changes: ChangeCount | None = None, *, session: str = "", glyphs: Glyphs = UNICODE
) -> list[Text]:
    """The lines to print after a run. `changes` None: not known (the box never started). `session`: the
    argument that names it in the commands, empty when it is this directory's latest.
    """
    lines = [Text(), _ended(view, glyphs), *_changes(view, changes)]
    named = f" {one_line(session)}" if session else ""
    resume = f"--resume{named}" if named else "--continue"
    commands: list[tuple[str, str]] = []
    if changes is not None and changes.files:
        commands += [(f"fumehood {name}{named}", what) for name, what in _COMMANDS]
    if view.refused:
        commands.append((f"fumehood net log{named}", "see what was refused, and what would allow it"))
    if view.box.state != "starting":
        commands.append((f"fumehood shell{named}", "look around in the box"))
    commands.append((f'fumehood {resume} "…"' if glyphs is UNICODE else f'fumehood {resume} "..."', "go on"))
    wide = max(len(command) for command, _ in commands)
    return [
        *lines,
        *(Text().append(f"  {command:<{wide}}", "bold").append(f"   {what}") for command, what in commands),
    ]


def _ended(view: ViewState, glyphs: Glyphs) -> Text:
    good = view.turn.reason == "completed"
    sign = glyphs.done if good else glyphs.failed
    said = ended(view.turn.reason) if view.turn.reason else "not finished"
    line = Text().append(f"{sign} {said}", "bold green" if good else "bold red")
    parts = [duration(view.turn.seconds), plural(view.turn.rounds, "round"), plural(view.calls, "call")]
    if view.denied:
        parts.append(f"{view.denied} denied")
    if view.refused:
        parts.append(f"{plural(view.refused, 'request')} refused")
    parts.append(tokens(view.usage))
    if not view.model.startswith("scripted"):
        parts.append(money(view.usage.cost))
    return line.append(glyphs.dot + glyphs.dot.join(parts))


def _changes(view: ViewState, changes: ChangeCount | None) -> list[Text]:
    if changes is None:
        return []
    if not changes.files:
        return [Text("  nothing changed in the box")]
    counted = f" (+{changes.added} -{changes.removed})" if changes.added or changes.removed else ""
    untouched = "" if view.applied else "; your own files are as they were"
    return [Text(f"  {plural(changes.files, 'file')} changed in the box{counted}{untouched}")]
