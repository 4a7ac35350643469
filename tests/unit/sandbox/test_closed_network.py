"""Addresses that are nobody's business, owned for the test by a network namespace without a route: they answer there,
and no name that resolves to them is connected to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.network, pytest.mark.user]
PROJECT = Path(__file__).resolve().parents[3]


def test_no_private_link_local_or_metadata_address_is_reached_by_a_name() -> None:
    users = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    done = subprocess.run(
        ["unshare", "--net", *users, sys.executable, "-m", "tests.support.closed_network"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 10
    assert [address for address, told in found.items() if told != {"answers": True, "refused": True, "heard": 1}] == []
