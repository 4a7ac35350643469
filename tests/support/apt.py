"""A package repository that a test makes itself, in the box: a script that builds packages and lists them as apt's
sources, and nothing else, so that `apt-get install` needs no network.
"""

from __future__ import annotations

REPOSITORY = r"""
set -e
mkdir -p /usr/local/repo
cd /usr/local/repo
package() {
    control=/tmp/deb/$1/DEBIAN/control
    mkdir -p "/tmp/deb/$1/DEBIAN" "/tmp/deb/$1/usr/bin" "/tmp/deb/$1/var/lib/$1"
    printf 'Package: %s\nVersion: 1.0\nArchitecture: all\nDepends: %s\n' "$1" "$2" > "$control"
    printf 'Maintainer: nobody <nobody@example.org>\nDescription: a package for a test\n' >> "$control"
    printf '#!/bin/sh\necho "%s answers"\n' "$1" > "/tmp/deb/$1/usr/bin/$1"
    chmod 755 "/tmp/deb/$1/usr/bin/$1"
    printf '#!/bin/sh\nset -e\nuseradd --system --home-dir /var/lib/%s u-%s\n' "$1" "$1" > "/tmp/deb/$1/DEBIAN/postinst"
    printf 'chown u-%s /var/lib/%s\nchmod 2755 /usr/bin/%s\n' "$1" "$1" "$1" >> "/tmp/deb/$1/DEBIAN/postinst"
    chmod 755 "/tmp/deb/$1/DEBIAN/postinst"
    dpkg-deb --build "/tmp/deb/$1" "$1.deb"
    dpkg-deb --field "$1.deb" >> Packages
    printf 'Filename: ./%s.deb\nSize: %s\n' "$1" "$(stat -c %s "$1.deb")" >> Packages
    printf 'SHA256: %s\n\n' "$(sha256sum "$1.deb" | cut -d ' ' -f 1)" >> Packages
}
package one-box 'two-box'
package two-box 'base-files'
package three-box 'base-files'
rm -rf /tmp/deb
echo 'deb [trusted=yes] file:/usr/local/repo ./' > /etc/apt/sources.list
apt-get -q update
"""
INSTALL = "apt-get -q install -y --no-install-recommends"
