#!/bin/sh
# Removes what install.sh made. Configuration, token and spooled frames stay unless --purge is given.
#
#   sudo ./uninstall.sh [--purge] [--root FOLDER]
set -eu

usage() { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }

purge=no root=''
while [ $# -gt 0 ]; do
    case $1 in
        --purge) purge=yes; shift ;;
        --root) root=${2:-}; [ -n "$root" ] || usage; shift 2 ;;
        *) usage ;;
    esac
done
if [ -z "$root" ] && [ "$(id -u)" -ne 0 ]; then
    printf '%s\n' "error: this must run as root: sudo $0" >&2
    exit 1
fi

unit=$root/etc/systemd/system/rjpeg-capture.service
systemd() { if [ -z "$root" ] && [ -d /run/systemd/system ]; then systemctl "$@"; fi; }
if [ -e "$unit" ]; then
    systemd --quiet disable --now rjpeg-capture.service
    rm -f "$unit" "$unit.d/10-growing-pauses.conf"
    rmdir "$unit.d" 2>/dev/null || :
    systemd daemon-reload
fi
# only what install.sh has made, and so has named: /opt may hold other folders that begin with rjpeg-
if [ -L "$root/opt/rjpeg" ]; then rm -f "$root/opt/rjpeg"; fi
if [ -d "$root/opt" ]; then
    find "$root/opt" -mindepth 1 -maxdepth 1 -type d -regextype posix-extended \
        -regex '.*/rjpeg-[0-9]{8}T[0-9]{6}Z-[0-9]+' -exec rm -rf {} +
fi
if [ "$purge" = yes ]; then
    rm -rf "$root/etc/rjpeg" "$root/var/lib/rjpeg" "$root/etc/systemd/system/rjpeg-capture.service.d"
    if [ -z "$root" ] && getent passwd rjpeg >/dev/null; then userdel rjpeg; fi
else
    # the user too, who owns them
    printf '%s\n' "uninstall: /etc/rjpeg, /var/lib/rjpeg and the user rjpeg are left; --purge removes them" >&2
fi
