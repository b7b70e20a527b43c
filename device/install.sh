#!/bin/sh
# Installs capture.py as a service on Raspberry Pi OS or Debian, 64 bit: in /opt/rjpeg with an environment of its own,
# as the system user rjpeg. Run again, it upgrades. Out of a bundle (make bundle) it needs neither network nor
# compiler; out of a checkout it compiles, and gets packages from PyPI.
#
#   sudo ./install.sh [--no-start] [--root FOLDER]
#
# --no-start     install and enable the service, do not start it
# --root FOLDER  only put the files below FOLDER: no user, no service, no owner changed
#
# /etc/rjpeg/config.yaml, and /etc/rjpeg/token, which is empty, are made once and never overwritten. PYTHON=FILE chooses
# the interpreter.
set -eu
umask 022

say() { printf '%s\n' "install: $*" >&2; }
fail() { printf '%s\n' "error: $*" >&2; exit 1; }
usage() { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }

start=yes root=''
while [ $# -gt 0 ]; do
    case $1 in
        --no-start) start=no; shift ;;
        --root) root=${2:-}; [ -n "$root" ] || usage; shift 2 ;;
        *) usage ;;
    esac
done
device=$(dirname "$(readlink -f "$0")")
top=$(dirname "$device")
wheels=$top/wheels # in a bundle
if [ -n "$root" ]; then
    mkdir -p "$root"
    root=$(cd "$root" && pwd -P)
elif [ "$(id -u)" -ne 0 ]; then
    fail "this makes a user and a service, and so must run as root: sudo $0"
fi
has_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# --- what the system has ---------------------------------------------------------------------------------

python=${PYTHON:-python3}
command -v "$python" >/dev/null 2>&1 || fail "$python is missing: sudo apt-get install -y python3"
# the interpreter's own word: a 64-bit kernel may run a 32-bit system
system=$("$python" -c 'import platform, struct, sys
print("%d.%d" % sys.version_info[:2], platform.machine(), 8 * struct.calcsize("P"))') || fail "$python does not run"
read -r version machine bits <<SYSTEM
$system
SYSTEM
[ "$bits" = 64 ] || fail "this system is $bits bit; a 64-bit one is needed (Raspberry Pi OS 64-bit)"
case $version in
    3.11|3.12|3.13) ;;
    *) fail "$python is Python $version; 3.11 to 3.13 is needed (Raspberry Pi OS or Debian bookworm or trixie)" ;;
esac
case $machine in
    aarch64|x86_64) ;;
    *) fail "this machine is $machine; aarch64 (or x86_64) is needed" ;;
esac
# shellcheck disable=SC1091 # the system's own file
os=$(. /etc/os-release 2>/dev/null && printf '%s' "${VERSION_CODENAME:-}") || os=''
case $os in
    bookworm|trixie) ;;
    *) say "this system is not Debian's or Raspberry Pi OS's bookworm or trixie, which this was made for; going on" ;;
esac

of_bundle() { sed -n "s/^$1=//p" "$top/BUNDLE"; }
if [ -d "$wheels" ]; then
    for file in BUNDLE SHA256SUMS; do
        [ -r "$top/$file" ] || fail "$top is no whole bundle: $file is missing"
    done
    (cd "$top" && sha256sum --check --quiet --strict SHA256SUMS >&2) ||
        fail "the bundle in $top is damaged; copy and unpack it again"
    [ "$(of_bundle machine) $(of_bundle python)" = "$machine $version" ] ||
        fail "this bundle is for $(of_bundle os) ($(of_bundle machine), Python $(of_bundle python)), and this system" \
            "has $machine, Python $version; make the other one: make bundle ARGS=\"--os ...\""
fi

# --- files -----------------------------------------------------------------------------------------------

# Every installation is a folder of its own, and /opt/rjpeg a link that changes at once when all is well.
opt=$root/opt/rjpeg
release=$opt-$(date -u +%Y%m%dT%H%M%SZ)-$$
[ -L "$opt" ] || [ ! -e "$opt" ] || fail "$opt is there and was not made by this installer"
clean() { rm -rf "$release"; }
trap clean EXIT
trap 'exit 130' INT TERM
mkdir -p "$root/opt"
mkdir "$release"

say "making an environment with Python $version in $release"
# (-I: neither this folder nor PYTHONPATH is searched.)
# The packages go into an environment that does not see the system's, and so are all there, in the versions that
# rjpeg wants. Then it is opened: of what only the system has, picamera2 and libcamera, imports find the system's.
pip_flags='--quiet --no-input --disable-pip-version-check'
if [ -d "$wheels" ]; then
    "$python" -m venv --without-pip "$release/venv"
    set -- "$wheels"/pip-*.whl
    # a bundle holds what the device needs and nothing else, so all of it is installed
    # shellcheck disable=SC2086 # a list of words
    find "$wheels" -name '*.whl' ! -name 'pip-*' -exec \
        "$release/venv/bin/python" "$1/pip" install $pip_flags --no-cache-dir --no-index \
        --find-links "$wheels" {} + >&2 ||
        fail "pip could not install the bundle's wheels"
else
    "$python" -c 'import ensurepip' 2>/dev/null || fail "the venv module is missing: sudo apt-get install -y python3-venv"
    "$python" -m venv "$release/venv"
    # pip 25.1 is the first that knows dependency groups
    # shellcheck disable=SC2086 # a list of words
    { "$release/venv/bin/python" -m pip install $pip_flags 'pip>=25.1' &&
        "$release/venv/bin/python" -m pip install $pip_flags "$top" --group "$top/pyproject.toml:device"; } >&2 ||
        fail "pip could not install rjpeg from $top; its messages are above. 'scripts/setup --check' tells what a build" \
            "needs; 'make bundle' on another machine makes an archive that needs nothing"
fi
sed -i 's/^include-system-site-packages = .*/include-system-site-packages = true/' "$release/venv/pyvenv.cfg"

cp -R "$device" "$release/device"
cp "$device/service/check" "$release/check"
chmod 755 "$release/check"
rm -rf "$release/device/service" "$release/device/install.sh"
find "$release/device" -name __pycache__ -prune -exec rm -rf {} +
mv "$release/device/uninstall.sh" "$release/uninstall.sh"
guide=$top/README.md # in a bundle
[ -d "$wheels" ] || guide=$top/docs/raspberry-pi.md
cp "$guide" "$release/README.md"
# the service can't write here
"$release/venv/bin/python" -m compileall -q "$release/device" >&2
say 'encoding a frame, to see that all of it runs here'
timeout 300 "$release/venv/bin/python" -I -c 'import numpy, rjpeg
rjpeg.Encoder().encode(numpy.zeros((64, 64, 3), "uint8"), quality=50)' >&2 ||
    fail 'rjpeg does not run on this machine; nothing was changed'

if [ -z "$root" ]; then
    if ! getent passwd rjpeg >/dev/null; then
        say 'making the user rjpeg'
        useradd --system --user-group --home-dir /var/lib/rjpeg --no-create-home --shell /usr/sbin/nologin rjpeg
    fi
    if getent group video >/dev/null; then usermod --append --groups video rjpeg; fi
fi
owned() { # MODE OWNER FILE
    chmod "$1" "$3"
    [ -n "$root" ] || chown "$2" "$3"
}
etc=$root/etc/rjpeg
new=no
mkdir -p "$etc" "$root/var/lib/rjpeg/spool"
owned 750 root:rjpeg "$etc"
owned 750 rjpeg:rjpeg "$root/var/lib/rjpeg"
owned 700 rjpeg:rjpeg "$root/var/lib/rjpeg/spool"
if [ ! -e "$etc/config.yaml" ]; then
    new=yes
    sed -e 's|^\( *token_file:\) null|\1 /etc/rjpeg/token|' -e 's|^\( *folder:\) spool |\1 /var/lib/rjpeg/spool |' \
        "$device/config.yaml" >"$etc/config.yaml"
    owned 640 root:rjpeg "$etc/config.yaml"
fi
# for the token: a server takes only those that it has made
[ -e "$etc/token" ] || (umask 077 && : >"$etc/token")
owned 600 rjpeg:rjpeg "$etc/token"

unit=$root/etc/systemd/system/rjpeg-capture.service
mkdir -p "$(dirname "$unit")"
of_systemd=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p') || of_systemd=''
cp "$device/service/rjpeg-capture.service" "$unit"
pauses=$unit.d/10-growing-pauses.conf
if [ "${of_systemd:-0}" -ge 254 ]; then
    mkdir -p "$unit.d"
    cp "$device/service/growing-pauses.conf" "$pauses"
else # it would warn of what it does not know
    rm -f "$pauses"
fi

ln -sfn "$(basename "$release")" "$opt.new"
mv -T "$opt.new" "$opt"
trap - EXIT

# --- service ---------------------------------------------------------------------------------------------

if has_systemd; then
    systemctl daemon-reload
    systemctl --quiet enable rjpeg-capture.service
    if [ "$start" = yes ] && [ "$new" = no ]; then
        say 'starting the service'
        systemctl restart rjpeg-capture.service || say 'the service did not start; journalctl -u rjpeg-capture -o cat tells why'
    fi
fi
# releases before this one; what else begins with rjpeg- is not ours. uninstall.sh has the same pattern.
find "$root/opt" -mindepth 1 -maxdepth 1 -type d -regextype posix-extended \
    -regex '.*/rjpeg-[0-9]{8}T[0-9]{6}Z-[0-9]+' ! -name "$(basename "$release")" -exec rm -rf {} +
say "rjpeg $("$opt/venv/bin/python" -I -c 'import rjpeg; print(rjpeg.__version__)') is in $opt"
if [ "$new" = yes ]; then
    say "next: put camera and server into $etc/config.yaml
  on the server:  python -m server tokens add --camera camera
  here:           sudo tee $etc/token     paste what that printed, Enter, Ctrl-D; with mqtt the broker's password.
                  (a server that asks for none: token_file: null in $etc/config.yaml)
                  sudo $opt/check         tells what would not work, and how to mend it
                  sudo systemctl restart rjpeg-capture"
fi
