#!/bin/sh
# sudo where the system is writable: every command is root's already, so it runs its arguments.
shell=
while [ $# -gt 0 ]; do
    case $1 in
        --) shift; break ;;
        -u | -g | -U | -p | -C | -r | -t | -T | -R | -D | -h | --user | --group | --prompt | --chdir | --chroot | --host)
            shift; [ $# -gt 0 ] && shift ;;
        -i | -s | --login | --shell) shell=yes; shift ;;
        -*) shift ;;
        *=*) export "$1"; shift ;;
        *) break ;;
    esac
done
if [ $# -gt 0 ]; then
    exec "$@"
fi
[ -z "$shell" ] || exec "${SHELL:-/bin/sh}"
