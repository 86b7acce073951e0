#!/bin/sh
# Puts this package's files in their places and starts the sidecar. Safe to run again.
# With ROOT=/mnt/image the files go under that directory, and nothing is started.
set -eu
umask 077
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=${ROOT:-}
etc=$root/etc/rollcall
state=$root/var/lib/rollcall-agent

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "run it as root: sudo sh $0"
(cd "$here" && sha256sum -c SHA256SUMS >/dev/null) || fail "the files are damaged: fetch the package again"

if [ -e "$state/identity" ]; then
    if cmp -s "$here/etc/rollcall/agent.toml" "$etc/agent.toml"; then
        echo "This host's sidecar is in already; nothing was changed."
        exit 0
    fi
    fail "this host's sidecar has an identity already, in $state. To enroll it anew, stop rollcall-agent and move" \
        "that directory away."
fi

install -d -m 0755 "$etc" "$etc/agent"
if [ -e "$etc/agent.toml" ] && ! cmp -s "$here/etc/rollcall/agent.toml" "$etc/agent.toml"; then
    cp -p "$etc/agent.toml" "$etc/agent.toml.before-package"
fi
install -m 0644 "$here/etc/rollcall/agent.toml" "$etc/agent.toml"
install -m 0600 "$here/etc/rollcall/agent/token" "$etc/agent/token"

if [ -n "$root" ]; then
    echo "The files are in their places under $root."
elif command -v systemctl >/dev/null 2>&1 && systemctl cat rollcall-agent.service >/dev/null 2>&1; then
    systemctl enable rollcall-agent.service >/dev/null 2>&1 || true
    systemctl restart rollcall-agent.service
    echo "rollcall-agent is starting; see: rollcall-agent status"
else
    echo "The files are in their places. Start the sidecar: rollcall-agent run --config $etc/agent.toml"
fi
