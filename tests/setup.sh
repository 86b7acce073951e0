#!/usr/bin/env bash
# Installs what is needed from the distribution, where it may: as root, or through sudo without a password. Where it
# may not, a missing program is a failure that names the package, never a skip.
#
#   tests/setup.sh [PROGRAM:PACKAGE …]     without any: what the tests need
set -euo pipefail

needed=("$@")
[ $# -gt 0 ] || needed=(redis-server:redis-server curl:curl shellcheck:shellcheck)

missing=()
for pair in "${needed[@]}"; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

give_up() {
  echo "this needs ${missing[*]}, and $1: apt-get install ${missing[*]}" >&2
  exit 1
}

command -v apt-get >/dev/null || give_up "this is no Debian, so install the like of it yourself"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  sudo -n true 2>/dev/null || give_up "installing takes root or sudo without a password"
  as_root=(sudo -n)
fi

echo "installing ${missing[*]}"
apt_get=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
# A package of a server starts it at once; the tests start their own.
"${apt_get[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null ||
  { "${apt_get[@]}" update >/dev/null && "${apt_get[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null; } ||
  give_up "apt-get could not install it"
for pair in "${needed[@]}"; do
  command -v "${pair%%:*}" >/dev/null || give_up "${pair%%:*} is still not to be found"
done
