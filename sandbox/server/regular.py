"""Regular files, opened through no link, for our helpers in the box."""

from __future__ import annotations

import os
import stat


class RefusedError(Exception):
    """A sentence for the model."""


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """A descriptor for reading, and the file's stat. Every part of the absolute path is opened by itself, so that
    a link put there after the path was judged leads nowhere.
    """
    folder = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    parts = [part for part in path.split("/") if part]
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        name = parts[-1] if parts else "."
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        raise RefusedError("the file does not exist.") from None
    except PermissionError:
        raise RefusedError("permission denied.") from None
    except OSError as error:
        raise RefusedError(f"the file cannot be opened ({error.strerror}).") from None
    finally:
        os.close(folder)
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        os.close(file)
        raise RefusedError("this is not a regular file.")
    return file, status
