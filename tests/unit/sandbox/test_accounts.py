"""The box's accounts: the image's, and our user first."""

from __future__ import annotations

from sandbox.accounts import account_texts
from sandbox.spec import Owner

IMAGE = {
    "passwd": "root:x:0:0:root:/root:/bin/bash\nnode:x:1000:1000::/home/node:/bin/sh\nbox:x:7:7::/:/bin/sh\nbroken\n",
    "group": "root:x:0:\nnode:x:1000:\nstaff:x:50:node\n",
}


def test_the_owner_is_box_whatever_the_image_calls_him() -> None:
    passwd, group = account_texts(IMAGE, Owner(uid=1000, gid=50))
    assert passwd.splitlines() == [
        "box:x:1000:50:box:/home/box:/bin/sh",
        "root:x:0:0:root:/root:/bin/bash",
        "node:x:1000:1000::/home/node:/bin/sh",
    ]
    assert group == IMAGE["group"]


def test_a_group_without_a_name_gets_one() -> None:
    _, group = account_texts(IMAGE, Owner(uid=1, gid=77))
    assert group.splitlines()[0] == "box:x:77:"


def test_root_stays_root() -> None:
    passwd, _ = account_texts(IMAGE, Owner(uid=0, gid=0))
    assert passwd.splitlines()[0].startswith("root:")
    assert passwd.splitlines()[-1] == "box:x:0:0:box:/home/box:/bin/sh"


def test_an_image_without_accounts_has_the_least() -> None:
    passwd, group = account_texts({}, Owner(uid=1000, gid=1000))
    assert [line.split(":")[0] for line in passwd.splitlines()] == ["box", "root", "nobody"]
    assert [line.split(":")[0] for line in group.splitlines()] == ["box", "root", "nogroup"]


def test_lines_with_control_characters_are_left_out() -> None:
    passwd, _ = account_texts({"passwd": "evil\x1b[2J:x:1:1::/:/bin/sh\n"}, Owner(uid=1000, gid=1000))
    assert "evil" not in passwd
