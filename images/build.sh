#!/bin/sh
# Runs as root in a throw-away container and turns it into the image: `build.sh unpacked` installs
# /build/debs over a file system that only holds the essential packages' files, with no network;
# `build.sh pulled PACKAGE...` installs from the pulled image's own sources. Output: /build/log.
set -eu
exec >/build/log 2>&1
mode=$1
shift
export DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes LC_ALL=C.UTF-8 PYTHONHASHSEED=0 TZ=UTC
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# No service is started by an installation.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d

case $mode in
unpacked)
    # Users come first: other packages give files to root by name. An engine may have put its own here.
    rm -f /etc/passwd /etc/group || : >/etc/passwd
    dpkg --force-depends --force-unsafe-io --install /build/debs/essential/base-passwd_*.deb
    dpkg --force-depends --force-unsafe-io --install /build/debs/essential/base-files_*.deb
    # The essential packages depend on each other in circles; their files are there already.
    dpkg --force-depends --force-unsafe-io --install /build/debs/essential/*.deb
    if ls /build/debs/rest/*.deb >/dev/null 2>&1; then
        dpkg --force-depends --force-unsafe-io --unpack /build/debs/rest/*.deb
        dpkg --force-unsafe-io --configure --pending
    fi
    ;;
pulled)
    export APT_CONFIG=/build/apt.conf
    apt-get -q update
    apt-get -q install --yes --no-install-recommends "$@"
    apt-get clean
    dpkg-query --show --showformat '${Package} ${Version} ${Architecture}\n' >/build/packages
    ;;
esac

# The locale in one archive: a program that starts maps one file instead of opening twelve (bash: a fifth of its start).
if command -v localedef >/dev/null && [ -d /usr/lib/locale/C.utf8 ]; then
    rm -f /usr/lib/locale/locale-archive
    localedef --add-to-archive /usr/lib/locale/C.utf8
fi

dpkg --audit
