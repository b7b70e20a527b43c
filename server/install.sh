#!/bin/sh
# Installs the server as a service on Debian, Ubuntu or Raspberry Pi OS, 64 bit, out of a checkout: in /opt/rjpeg-server
# with an environment of its own, as the system user rjpeg-server, data in /var/lib/rjpeg-server. Run again, it upgrades.
#
#   sudo server/install.sh [--task FOLDER] [--groups LIST] [--wheels FOLDER] [--no-start] [--root FOLDER]
#
# --task FOLDER  a network that `make network` fetched, such as ~/.cache/rjpeg/networks/detector; new configurations
#                name it
# --groups LIST  dependency groups besides server, such as postgres,s3
# --wheels FOLDER  take rjpeg and all that it needs from there, without compiler and network:
#                  pip wheel --wheel-dir FOLDER . 'pip>=25.1' --group server
# --no-start     install and enable the service, do not start it
# --root FOLDER  only put the files below FOLDER: no user, no service, no owner changed
#
# /etc/rjpeg-server/config.yaml is made once and never overwritten. PYTHON=FILE chooses the interpreter.
set -eu
umask 022

say() { printf '%s\n' "install: $*" >&2; }
fail() { printf '%s\n' "error: $*" >&2; exit 1; }
usage() { sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2; }

start=yes root='' task='' groups='' wheels=''
while [ $# -gt 0 ]; do
    case $1 in
        --no-start) start=no; shift ;;
        --task) task=${2:-}; [ -n "$task" ] || usage; shift 2 ;;
        --groups) groups=${2:-}; [ -n "$groups" ] || usage; shift 2 ;;
        --wheels) wheels=${2:-}; [ -n "$wheels" ] || usage; shift 2 ;;
        --root) root=${2:-}; [ -n "$root" ] || usage; shift 2 ;;
        *) usage ;;
    esac
done
top=$(dirname "$(dirname "$(readlink -f "$0")")")
if [ -n "$root" ]; then
    mkdir -p "$root"
    root=$(cd "$root" && pwd -P)
elif [ "$(id -u)" -ne 0 ]; then
    fail "this makes a user and a service, and so must run as root: sudo $0"
fi
has_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# --- what the system has ---------------------------------------------------------------------------------

[ -r "$top/pyproject.toml" ] || fail "$top is no checkout of Region JPEG"
if [ -n "$wheels" ]; then
    wheels=$(cd "$wheels" && pwd -P) || fail "$wheels is no folder of wheels"
    ls "$wheels"/rjpeg-*.whl >/dev/null 2>&1 || fail "$wheels has no wheel of rjpeg"
fi
if [ -n "$task" ]; then
    for file in NOTICE network.tflite labels.txt task.yaml; do
        [ -r "$task/$file" ] || fail "$task has no $file; make network ARGS=detector makes such a folder"
    done
    name=$(basename "$(readlink -f "$task")")
fi
python=${PYTHON:-python3}
command -v "$python" >/dev/null 2>&1 || fail "$python is missing: sudo apt-get install -y python3"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$python does not run"
case $version in
    3.11|3.12|3.13) ;;
    *) fail "$python is Python $version; 3.11 to 3.13 is needed: PYTHON=/path/to/python3.12 $0" ;;
esac
"$python" -c 'import ensurepip' 2>/dev/null || fail "the venv module is missing: sudo apt-get install -y python3-venv"

# --- files -----------------------------------------------------------------------------------------------

# Every installation is a folder of its own, and /opt/rjpeg-server a link that changes at once when all is well.
opt=$root/opt/rjpeg-server
release=$opt-$(date -u +%Y%m%dT%H%M%SZ)-$$
[ -L "$opt" ] || [ ! -e "$opt" ] || fail "$opt is there and was not made by this installer"
clean() { rm -rf "$release"; }
trap clean EXIT
trap 'exit 130' INT TERM
mkdir -p "$root/opt"
mkdir "$release"

say "making an environment with Python $version in $release"
"$python" -m venv "$release/venv"
source=$top
set -- --group "$top/pyproject.toml:server"
for group in $(printf '%s' "$groups" | tr , ' '); do set -- "$@" --group "$top/pyproject.toml:$group"; done
pip_install() { "$release/venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check "$@" >&2; }
if [ -n "$wheels" ]; then
    source=rjpeg
    export PIP_NO_INDEX=1 PIP_FIND_LINKS="$wheels"
fi
# pip 25.1 is the first that knows dependency groups
{ pip_install 'pip>=25.1' && pip_install "$source" "$@"; } ||
    fail "pip could not install rjpeg from ${wheels:-$top}; its messages are above. 'scripts/setup --check' tells what a build needs"
cp -R "$top/server" "$top/docs" "$release"
rm -rf "$release/server/service" "$release/server/install.sh"
find "$release/server" -name __pycache__ -prune -exec rm -rf {} +
cp "$top/server/uninstall.sh" "$release/uninstall.sh"
rm -f "$release/server/uninstall.sh"
# the service can't write here
"$release/venv/bin/python" -m compileall -q "$release/server" >&2
say 'asking the server for its help, to see that it runs here'
(cd "$release" && timeout 120 venv/bin/python -m server --help >/dev/null) ||
    fail 'the server does not run on this machine; nothing was changed'

if [ -z "$root" ] && ! getent passwd rjpeg-server >/dev/null; then
    say 'making the user rjpeg-server'
    useradd --system --user-group --home-dir /var/lib/rjpeg-server --no-create-home --shell /usr/sbin/nologin rjpeg-server
fi
owned() { # MODE OWNER FILE
    chmod "$1" "$3"
    [ -n "$root" ] || chown "$2" "$3"
}
etc=$root/etc/rjpeg-server
data=$root/var/lib/rjpeg-server
mkdir -p "$etc" "$data/cache/rjpeg/networks"
owned 750 root:rjpeg-server "$etc"
owned 750 rjpeg-server:rjpeg-server "$data"
if [ -n "$task" ]; then
    rm -rf "$data/cache/rjpeg/networks/$name"
    cp -RL "$task" "$data/cache/rjpeg/networks/$name"
fi
if [ ! -e "$etc/config.yaml" ]; then
    sed -e "s|^\( *data:\) out/server\( .*\)\{0,1\}$|\1 /var/lib/rjpeg-server|" "$top/server/config.yaml" >"$etc/config.yaml"
    [ -z "$task" ] || sed -i "s|^task: null|task: $name|" "$etc/config.yaml"
    owned 640 root:rjpeg-server "$etc/config.yaml"
fi
unit=$root/etc/systemd/system/rjpeg-server.service
mkdir -p "$(dirname "$unit")"
cp "$top/server/service/rjpeg-server.service" "$unit"

ln -sfn "$(basename "$release")" "$opt.new"
mv -T "$opt.new" "$opt"
trap - EXIT

# --- service ---------------------------------------------------------------------------------------------

if has_systemd; then
    systemctl daemon-reload
    systemctl --quiet enable rjpeg-server.service
    if [ "$start" = yes ]; then
        say 'starting the service'
        systemctl restart rjpeg-server.service ||
            say 'the service did not start; journalctl -u rjpeg-server -o cat tells why'
    fi
fi
# releases before this one; uninstall.sh has the same pattern
find "$root/opt" -mindepth 1 -maxdepth 1 -type d -regextype posix-extended \
    -regex '.*/rjpeg-server-[0-9]{8}T[0-9]{6}Z-[0-9]+' ! -name "$(basename "$release")" -exec rm -rf {} +
say "rjpeg $("$opt/venv/bin/python" -I -c 'import rjpeg; print(rjpeg.__version__)') is in $opt
  $etc/config.yaml has its settings: 'listen', for other machines; then sudo systemctl restart rjpeg-server
  tokens:  cd $opt && sudo -u rjpeg-server venv/bin/python -m server tokens add --reader --config $etc/config.yaml"
