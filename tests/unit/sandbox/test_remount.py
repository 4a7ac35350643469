"""What a link of /proc leads to, as the look for who holds a place sees it; the rest needs a box."""

from __future__ import annotations

import os
from pathlib import Path

from sandbox.remount import _ids, _mount_id


def test_a_mount_is_told_by_one_call_as_the_kernel_tells_it_of_an_open_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", Path("/proc/self"), Path("/proc/self/exe"), Path("/dev/null")):
        opened = os.open(path, os.O_PATH)
        try:
            told = list(_ids(Path(f"/proc/self/fdinfo/{opened}").read_text("ascii")))
            assert list(_mount_id(f"/proc/self/fd/{opened}")) == told
        finally:
            os.close(opened)
    assert list(_mount_id("/proc/self/fd/999999")) == []
