"""A session's exchanges with the network, kept beside its journal (`--record-net`), or played from such a recording in
the place of the network (`--replay-net`). The form of both is `sandbox.recording`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runner.errors import UsageError
from runner.journal import Secrets
from runner.sessions.store import Store, state_home
from runner.spec import SessionSpec
from sandbox.errors import StoreError
from sandbox.recording import FILE, LIMIT, Recorder, Recording
from sandbox.replaying import Replay
from sandbox.store import Store as Records

__all__ = ["FILE", "LIMIT", "Taping", "open_recording", "recording_file"]
PLAYED = "net.played"


class Taping:
    """What a spec asks for: a `tape` that records, or a `replay` that answers. `secrets` are kept out of the one, and
    found again by the other. Close it. Raises UsageError where both are asked for, StoreError, OSError.
    """

    def __init__(self, spec: SessionSpec, directory: Path, secrets: Secrets) -> None:
        if spec.record_net and spec.replay_net:
            raise UsageError("a session is recorded or replayed, not both: --record-net-limit 0 or --replay-net ''")
        self.tape: Recorder | None = None
        self.replay: Replay | None = None
        self._played: Records | None = None
        known = tuple(value.encode() for value in secrets.values)
        if spec.record_net:
            self.tape = Recorder(directory / FILE, session=spec.session, secrets=known, limit=spec.record_net)
            return
        recording = Recording(Path(spec.replay_net))
        try:
            played = self._played = Records(directory / PLAYED, writable=True)
            before = [note["n"] for note in played.notes() if note["of"] == recording.id]
        except BaseException:
            recording.close()
            raise
        self.replay = Replay(
            recording,
            secrets=known,
            played=before,
            note=lambda number: played.note({"of": recording.id, "n": number}),
        )

    def close(self) -> str:
        """All of it is on the disk; what the user is told of it, "" for nothing."""
        if self.replay is not None and self._played is not None:
            self.replay.close()
            self._played.close()
            missing = self.replay.missing
            asked = "1 request was" if missing == 1 else f"{missing} requests were"
            return f"{asked} not recorded, and not answered (fumehood net log names them)" if missing else ""
        if self.tape is None:
            return ""
        self.tape.close()
        lost = f", {self.tape.lost} could not be kept (fumehood net recorded names them)" if self.tape.lost else ""
        problem = f"; the recording is not whole: {self.tape.problem}" if self.tape.problem else ""
        return f"{self.tape.kept} exchanges recorded{lost}{problem}"


def recording_file(text: str, environ: Mapping[str, str]) -> str:
    """The absolute path of a recording: a file, or that of the session whose id begins so. Raises UsageError for one
    that cannot be read, SessionNotFoundError.
    """
    file = Path(text)
    if not file.is_file():
        stored = Store(state_home(environ)).find(text)
        file = stored.directory / FILE
        if not file.exists():
            raise UsageError(f"session {stored.session[:8]} has no recording: it ran without --record-net")
    open_recording(file).close()
    return str(file.absolute())


def open_recording(file: Path) -> Recording:
    """To read. Raises UsageError."""
    try:
        return Recording(file)
    except StoreError as error:
        raise UsageError(str(error)) from error
