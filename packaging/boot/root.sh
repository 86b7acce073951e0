#!/usr/bin/env bash
# A small Debian tree that boots, made once and kept: the test boots leave it as it is.
#
#   packaging/boot/root.sh DIRECTORY [SUITE]
set -euo pipefail

root=$1 suite=${2:-bookworm}
# What is in a tree is part of its name for itself: another recipe makes another tree.
recipe=$(sha256sum "$0" | cut -c1-16)-$suite
[ "$(cat "$root/.made-by" 2>/dev/null)" != "$recipe" ] || exit 0

mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
  sed -n 's/^URIs: *//p; s/^deb  *\(\[[^]]*\] *\)\?\([^ ]*\).*/\2/p' | sed -n '/debian\/\?$/p' | sed -n 1p) || true
[ -n "$mirror" ] || {
  echo "no mirror of Debian is configured in /etc/apt: a $suite cannot be made" >&2
  exit 1
}
echo "a $suite from $mirror, once: two to four minutes"
rm -rf "$root"
mkdir -p "$(dirname "$root")"
debootstrap --variant=minbase \
  --include=systemd,systemd-sysv,dbus,adduser,init-system-helpers,iproute2,procps,rpm \
  "$suite" "$root" "$mirror" >"$root.log" 2>&1 || {
  tail -5 "$root.log" >&2
  echo "debootstrap could not make a $suite from $mirror; all of it is in $root.log" >&2
  exit 1
}
rm -f "$root"/var/cache/apt/archives/*.deb
# A boot of some seconds needs none of these.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
  getty@tty1.service console-getty.service systemd-networkd.service systemd-timesyncd.service; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# Type=exec: a oneshot of the boot itself could never wait for the boot to be over.
cat >"$root/etc/systemd/system/boottest.service" <<'UNIT'
[Unit]
Description=The mounted test; its exit status is the machine's
After=multi-user.target dbus.service
[Service]
Type=exec
Environment=HOME=/root DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
ExecStart=/bin/sh -c 'bash /share/inside.sh >/share/out.log 2>&1; echo $? >/share/rc'
ExecStopPost=/bin/sh -c 'systemctl --no-block exit "$(cat /share/rc 2>/dev/null || echo 99)"'
UNIT
cat >"$root/etc/systemd/system/boottest.target" <<'UNIT'
[Unit]
Description=A boot, then the test
Requires=multi-user.target
After=multi-user.target
Wants=boottest.service
AllowIsolate=yes
UNIT
echo "$recipe" >"$root/.made-by"
