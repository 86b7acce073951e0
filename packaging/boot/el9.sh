#!/usr/bin/env bash
# Whether dnf finds all that the .rpm need on an EL 9: against a repository with a package that provides what EL 9's
# base does, and no more, such as a C library of 2.34. A program that asks for a newer one fails here.
#
#   packaging/boot/el9.sh HOME     HOME/old has the packages
set -euo pipefail

home=$1 lab=$1/el9
begun=$(date +%s%N)
rm -rf "$lab"
mkdir -p "$lab"/{repo,root,db,log,cache,persist}
trap 'rm -rf "$lab"' EXIT
rpmbuild -bb --quiet --define "_topdir $lab/rpmbuild" --define "_rpmdir $lab/repo" --define "_dbpath $lab/db" \
  "$(dirname "$0")/fake-el9-base.spec"
find "$home/old" -name '*.rpm' ! -name '*-debuginfo*' -exec ln -t "$lab/repo" {} +
createrepo_c --quiet "$lab/repo"
lab_dnf() {
  dnf -y --quiet --installroot="$lab/root" --releasever=9 --setopt=reposdir=/nonexistent --setopt=cachedir="$lab/cache" \
    --setopt=persistdir="$lab/persist" --setopt=logdir="$lab/log" --repofrompath="lab,file://$lab/repo" --nogpgcheck \
    --setopt=tsflags=noscripts "$@"
}
lab_dnf install rollcall-agent rollcall-collector >"$lab/out" 2>&1 || { cat "$lab/out" >&2 && exit 1; }
for file in usr/bin/rollcall-agent usr/bin/rollcall-collector etc/rollcall/agent.toml usr/lib/systemd/system/rollcall-agent.service; do
  [ -e "$lab/root/$file" ] || { echo "dnf installed no /$file" >&2 && exit 1; }
done
# The test can fail: without the base, nothing is found.
if lab_dnf --installroot="$lab/bare" --exclude=fake-el9-base install rollcall-agent >"$lab/out" 2>&1; then
  echo "dnf installs the sidecar without a C library: this test sees nothing" >&2
  exit 1
fi
rpm -qp --requires "$home"/old/rollcall-agent-[0-9]*.rpm 2>/dev/null | sed -n 's/^libc.so.6(\(GLIBC_[0-9.]*\)).*/\1/p' | sort -V | tail -1 |
  sed 's/^/el9: the newest that the sidecar asks of the C library is /'
echo "el9: dnf finds everything and installs both ($((($(date +%s%N) - begun) / 1000000)) ms)"
