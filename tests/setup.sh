#!/usr/bin/env bash
# Installs what is needed from the distribution, where it may: as root, or through sudo without a password. Where it
# may not, a missing program is a failure that names the package, never a skip.
#
#   tests/setup.sh [PROGRAM:PACKAGE …]     without any: what the tests need
set -euo pipefail

# Servers are where an ordinary user does not look.
PATH=$PATH:/usr/sbin:/sbin

# program:package
needed=("$@") wants_promtool=no
if [ $# -eq 0 ]; then
  needed=(redis-server:redis-server curl:curl ssh:openssh-client sshd:openssh-server script:bsdutils shellcheck:shellcheck)
  wants_promtool=yes
fi
# Of Prometheus only promtool is wanted, no server: it is taken out of its package and laid here.
tools=${CARGO_TARGET_DIR:-$(cd "$(dirname "$0")/.." && pwd)/target}/tools

missing=()
for pair in "${needed[@]}"; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
has_promtool() { [ $wants_promtool = no ] || command -v promtool >/dev/null || [ -x "$tools/promtool" ]; }
if [ ${#missing[@]} -eq 0 ] && has_promtool; then exit 0; fi

give_up() {
  echo "this needs $1, and $2: apt-get install $1" >&2
  exit 1
}

command -v apt-get >/dev/null || give_up "${missing[*]-promtool}" "this is no Debian, so install the like of it yourself"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  as_root=(sudo -n)
fi
apt_get=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
# A host without sudo may have what is wanted all the same.
update() { "${as_root[@]}" true 2>/dev/null && "${apt_get[@]}" update >/dev/null; }

if [ ${#missing[@]} -gt 0 ]; then
  "${as_root[@]}" true 2>/dev/null || give_up "${missing[*]}" "installing takes root or sudo without a password"
  echo "installing ${missing[*]}"
  # A package of a server starts it at once; the tests start their own.
  "${apt_get[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null ||
    { update && "${apt_get[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null; } ||
    give_up "${missing[*]}" "apt-get could not install it"
  for pair in "${needed[@]}"; do
    command -v "${pair%%:*}" >/dev/null || give_up "${pair%%:*}" "it is still not to be found"
  done
fi

# Downloading takes no privilege; only the list of packages may have to be fetched first.
fetch_promtool() (
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  # Whoever runs tests meanwhile finds a whole program or none.
  cd "$scratch" &&
    apt-get -o APT::Sandbox::User="$(id -un)" download prometheus >/dev/null &&
    dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool &&
    mkdir -p "$tools" && mv usr/bin/promtool "$tools/.promtool.$$" && mv "$tools/.promtool.$$" "$tools/promtool"
)

if ! has_promtool; then
  echo "fetching promtool to $tools"
  fetch_promtool 2>/dev/null || { update && fetch_promtool; } || give_up prometheus "it could not be downloaded"
  "$tools/promtool" --version >/dev/null 2>&1 || give_up prometheus "the downloaded promtool does not run"
fi
