"""What a box, an engine or a workspace can fail with. Stable exit codes 40-59.

The controller shows `str(error)`; `hint`, where there is one, is what the user can do.
"""

from __future__ import annotations

from typing import ClassVar


class SandboxError(Exception):
    """Root of the sandbox's errors."""

    exit_code: ClassVar[int] = 40

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class EngineMissingError(SandboxError):
    """No container engine answers."""

    exit_code = 41


class EnginePermissionError(SandboxError):
    """An engine is there, but this user may not speak to it."""

    exit_code = 42


class EngineLostError(SandboxError):
    """The engine died or went away in mid-call."""

    exit_code = 43


class EngineRefusedError(SandboxError):
    """The engine answered no: a bad option, a runtime it does not have, no space."""

    exit_code = 44


class ImageMissingError(SandboxError):
    """The engine has no such image, and it cannot be made."""

    exit_code = 45


class BoxStartError(SandboxError):
    """The container started but its server never said hello."""

    exit_code = 46


class BoxLostError(SandboxError):
    """The pipe ended in the middle of things."""

    exit_code = 47


class DiskFullError(SandboxError):
    """The session's disk budget, or the host's floor of free space, is reached."""

    exit_code = 48


class WorkspaceError(SandboxError):
    """A root cannot be used: not readable, refused without --really, odd file system."""

    exit_code = 49


class ProtocolError(SandboxError):
    """The other end of the pipe spoke nonsense. Always the end of the pipe."""

    exit_code = 50


class StoreError(SandboxError):
    """An object of the store is damaged."""

    exit_code = 51


class PathError(SandboxError):
    """A file request in the box failed. `code` is from the closed enum of sandbox.wire."""

    exit_code = 52

    def __init__(self, code: str, path: str, *, detail: str = "") -> None:
        super().__init__(f"{path}: {detail or code}")
        self.code = code
        self.path = path
