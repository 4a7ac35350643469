"""The errors of the controller that reach a user, each with a stable exit code.

Failures of a tool are values for the model and never appear here; what the box
itself raises lives in `sandbox.errors` and carries its own code.
"""

from __future__ import annotations

from typing import Any, ClassVar


class FumehoodError(Exception):
    """Root of the controller's errors. `exit_code` is what the command line ends with; `hint`, where there
    is one, is what the user can do.
    """

    exit_code: ClassVar[int] = 1
    hint: ClassVar[str] = ""


class UsageError(FumehoodError):
    """A flag, argument or settings value that cannot be used."""

    exit_code = 2


class SessionNotFoundError(FumehoodError):
    """No session has this id or prefix, or this directory has none yet."""

    exit_code = 3


class SessionBusyError(FumehoodError):
    """Another live process owns the session."""

    exit_code = 4


class JournalError(FumehoodError):
    """The journal is damaged or of a version this program cannot read."""

    exit_code = 5


class SettingsError(FumehoodError):
    """A settings or policy file that cannot be used as it stands. Nothing starts without it: what it may have
    denied is not known. `file` as the user knows it; `line` and `column` count from 1, 0 where there is none.
    """

    exit_code = 6

    def __init__(self, problem: str, *, file: str = "", line: int = 0, column: int = 0, hint: str = "") -> None:
        where = f"{file}:{line}:{column}: " if line else f"{file}: " if file else ""
        super().__init__(f"{where}{problem}")
        self.problem, self.file, self.line, self.column, self._hint = problem, file, line, column, hint

    @property
    def hint(self) -> str:  # type: ignore[override]
        """What the user can do about this one."""
        return self._hint


class ManagedError(SettingsError):
    """Managed settings that cannot be relied on: unreadable, malformed, of the wrong owner, unsigned, expired,
    older than seen, or with a lock that this program cannot hold.
    """

    exit_code = 7

    @property
    def hint(self) -> str:  # type: ignore[override]
        """What the user can do about it: most often, nothing."""
        return self._hint or "ask who administrates this machine; nothing starts without the managed settings"


class AuditSinkError(FumehoodError):
    """The audit sink that managed settings require did not acknowledge the journal."""

    exit_code = 10
    hint = "ask who administrates this machine; nothing is done that the audit sink does not hear of"


class LockedError(FumehoodError):
    """Managed settings forbid what was asked for, whichever way it came in."""

    exit_code = 8


class PolicyChangedError(FumehoodError):
    """The spec was made for another policy than the one in force."""

    exit_code = 9


class ModelError(FumehoodError):
    """Root of what a model provider can do to us. `status`: its HTTP status, None where none came;
    `request`: its id of the request; `partial`: the blocks that were finished before it happened.
    """

    exit_code = 20

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request: str = "",
        partial: tuple[dict[str, Any], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.request = request
        self.partial = partial


class AuthenticationError(ModelError):
    """The provider refused the key (401, 403)."""

    exit_code = 21
    hint = "see that ANTHROPIC_API_KEY holds a key that is valid there"


class MissingKeyError(AuthenticationError):
    """The environment holds no key for the model's provider."""

    hint = "set ANTHROPIC_API_KEY, or ANTHROPIC_AUTH_TOKEN for a gateway"

    def __init__(self) -> None:
        super().__init__("there is no key for the model's provider")


class ModelNotFoundError(ModelError):
    """The provider knows no such model (404)."""

    exit_code = 22
    hint = "name one that the provider has: --model, FUMEHOOD_MODEL"


class PromptTooLongError(ModelError):
    """The conversation does not fit the model's window (400, 413)."""

    exit_code = 23
    hint = "start a new session; what this one changed is kept"


class InvalidRequestError(ModelError):
    """The provider refused the request for another reason (4xx)."""

    exit_code = 24


class OverloadedError(ModelError):
    """Overloaded, rate limited or unreachable; a user sees it after the last retry.
    `retry_after`: seconds that the provider asked to wait.
    """

    exit_code = 25

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request: str = "",
        partial: tuple[dict[str, Any], ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status=status, request=request, partial=partial)
        self.retry_after = retry_after


class BrokenStreamError(ModelError):
    """The reply broke off or made no sense; what came of it is kept, marked partial."""

    exit_code = 26


class ScriptEndedError(ModelError):
    """The scripted model has no line left for this request."""

    exit_code = 27


class ScriptMismatchError(ModelError):
    """The scripted model did not find what its script expects of the conversation."""

    exit_code = 28
