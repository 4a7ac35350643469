"""What commands do to the writable places of a box in tests, and a look at all that they left."""

from __future__ import annotations

from tests.support.sessions import Inside

# All that a tree means, of the three places; a file's names are told by the first of them.
LOOK = """
import hashlib, os, stat
for top in (os.getcwd(), os.path.expanduser("~"), "/tmp", "/var/tmp"):
    first = {}
    for directory, names, files in sorted(os.walk(os.fsencode(top))):
        names[:] = sorted(names)
        links = [name for name in names if os.path.islink(directory + b"/" + name)]
        for path in [directory] + sorted(directory + b"/" + name for name in files + links):
            seen = os.lstat(path)
            own = b""
            if stat.S_ISLNK(seen.st_mode):
                own = os.readlink(path)
            elif stat.S_ISREG(seen.st_mode):
                try:
                    own = hashlib.sha256(open(path, "rb").read()).hexdigest(), first.setdefault(seen.st_ino, path)
                except PermissionError:
                    own = "closed", seen.st_size
            try:
                attributes = [(n, os.getxattr(path, n)) for n in sorted(os.listxattr(path, follow_symlinks=False))]
            except OSError:
                attributes = []
            print(ascii((path, oct(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_mtime_ns, own, attributes)))
"""
# The fifteen kinds of change that the prototype was measured with, and some more.
CHANGES = r"""
echo changed >> file
rm gone
rm -r tree && mkdir tree && echo new > tree/other
rm -r dir/sub && echo now a file > dir/sub
rm script && mkdir script && touch script/in
rm link && ln -s elsewhere link
rm dir/a && ln -s ../file dir/a
chmod 4751 dir/b
python3 -c 'import os; os.setxattr("file", "user.mark", b"1")' || true
touch -d '2001-02-03 04:05:06.789' dir
mkfifo pipe
mv dir/b dir/moved
cp -r tree copied
echo x > "$(printf 'not \377utf8\n')"
echo one > first && ln first second
truncate -s 9000000000 sparse
mkdir closed && echo secret > closed/in && chmod 000 closed
echo none > nobody && chmod 000 nobody
git add -A . 2>/dev/null || true
git -c user.name=a -c user.email=a@b commit -qm two || true
echo note > ~/note; echo '[x]' >> ~/.gitconfig; mkdir -p ~/.cache/deep/er
echo t > /tmp/t; echo v > /var/tmp/v
"""
MORE = r"""
chmod 700 closed; rm -rf closed nobody pipe sparse second copied
python3 -c 'import os; os.removexattr("file", "user.mark")' || true
echo more >> first; rm -rf tree dir .git; mkdir dir; rm -f ~/note ~/.gitconfig /tmp/t
echo back > gone
"""


async def back_to(inside: Inside, checkpoint: str) -> None:
    await inside.end()
    await inside.workspace.restore(checkpoint)
    inside.workspace.checkpoints.settle()
    await inside.again()


async def take(inside: Inside) -> str:
    made = await inside.workspace.checkpoint("x")
    assert made is not None
    return made.id
