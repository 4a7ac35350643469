"""What a program of the user's prints, asked on the host within bounds."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def printed(argv: Sequence[str], *, environ: Mapping[str, str], cwd: Path, seconds: float, most: int) -> bytes:
    """At most so many bytes of its output, after so many seconds at most. Its name only is said where it fails: raises
    LookupError, OSError.
    """
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LookupError(f"{Path(argv[0]).name} gave no answer within {seconds:g} s") from error
    if done.returncode:
        raise LookupError(f"{Path(argv[0]).name} ended with {done.returncode}")
    return done.stdout[:most]
