#!/usr/bin/env bash
# The packages on real, booted systems: `make test-packages`. From warm release builds it takes a quarter of an hour,
# most of it the builds whose bytes are compared.
#
#   packaging/boot/test.sh [--binaries DIR | --built] [TEST …]
#
#   lint          lintian, rpmlint, the bill of materials against its schema
#   deb           the life of both .deb on a Debian: from installing without a token, over a reboot, to a purge
#   watched       probes on a real host, what a crash takes, reload, both doctors, the exposure of the units
#   rpm           the life of both .rpm under a real service manager
#   el9           whether dnf finds on an EL 9 all that the .rpm need
#   boxes         a collector in one machine, sidecars in another, a cable between them that is cut
#   static        the static packages on a Debian 11
#   reproducible  everything built once more, at another path, gives the same bytes
#
#   --binaries    programs that are built already, instead of release builds; not for static and reproducible
#   --built       the packages of the last run
#
# Needs root: systemd-nspawn boots the trees. What is missing is installed where that is allowed; where it is not, this
# says so and fails. Nothing of it touches the host's own units, and what an earlier run left behind is removed.
set -euo pipefail
cd "$(dirname "$0")/../.."
boot=packaging/boot

given=() built='' tests=()
while [ $# -gt 0 ]; do
  case $1 in
    --binaries) given=(--binaries "$2") && shift ;;
    --built) built=yes ;;
    lint | deb | watched | rpm | el9 | boxes | static | reproducible) tests+=("$1") ;;
    *) sed -n '5,18s/^# \{0,1\}//p' "$0" >&2 && exit 64 ;;
  esac
  shift
done
[ ${#tests[@]} -gt 0 ] || tests=(lint deb watched rpm el9 boxes static reproducible)

[ "$(id -u)" -eq 0 ] || { echo "booting a system takes root: sudo make test-packages" >&2 && exit 1; }
tests/setup.sh systemd-nspawn:systemd-container debootstrap:debootstrap dbus-daemon:dbus ip:iproute2 \
  lintian:lintian rpmlint:rpmlint rpm:rpm rpmbuild:rpm dnf:dnf createrepo_c:createrepo-c

begun=$SECONDS
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
home=$target/boot
mkdir -p "$home"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

# One run at a time: they would share trees, groups and networks.
exec 8>"$home/lock"
flock -n 8 || { echo "another run holds $home/lock" >&2 && exit 1; }
near=rollcall-c far=rollcall-a
tidy() {
  local pid mounted
  for pid in $(jobs -p); do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  for mounted in "$home"/kept-*/tree; do if mountpoint -q "$mounted"; then umount "$mounted"; fi; done
  for pid in $near $far; do ip netns del "$pid" 2>/dev/null || true; done
  find /sys/fs/cgroup -depth -type d -path '*boottest-*' -exec rmdir {} + 2>/dev/null || true
}
trap tidy EXIT
trap 'exit 130' INT TERM HUP
tidy

tree=$home/bookworm
$boot/root.sh "$tree" bookworm

if [ -z "$built" ]; then
  echo "::: the packages, and the same ones as upgrades; the second one brings another configuration"
  rm -rf "${home:?}/old" "${home:?}/new" "${home:?}/newer" "${home:?}/etc"
  packaging/build.sh "${given[@]}" --out "$home/old" --version "$version"
  [ ${#given[@]} -gt 0 ] || given=(--binaries "$target/package/dynamic")
  given+=(--papers "$target/debug/rollcall-papers" --lean)
  packaging/build.sh "${given[@]}" --out "$home/new" --version "$version+1"
  cp -r packaging/etc "$home/etc"
  for file in "$home"/etc/*; do echo "# As a later version has it." >>"$file"; done
  packaging/build.sh "${given[@]}" --out "$home/newer" --version "$version+2" --etc "$home/etc"
fi

# share NAME FILE…: a folder that a machine sees as /share.
share() {
  local dir=$home/share-$1
  shift
  rm -rf "$dir"
  mkdir -p "$dir"
  cp $boot/facts.sh "$@" "$dir/"
  for which in old new newer static; do
    [ -d "$home/$which" ] || continue
    mkdir "$dir/$which"
    # Debug symbols are none of a host's.
    find "$home/$which" -maxdepth 1 \( -name '*.deb' -o -name '*.rpm' \) ! -name '*-dbgsym*' ! -name '*-debuginfo*' \
      -exec ln -t "$dir/$which" {} +
  done
  echo "$dir"
}

# played NAME SHARE STATUS: what a machine said; fails where it did.
played() {
  local name=$1 dir=$2 status=$3
  sed "s/^/$name: /" "$dir/out.log" 2>/dev/null || true
  sed -n "s/^=== /$name: /p" "$dir/out.log" 2>/dev/null >>"$home/summary" || true
  [ "$status" -eq 0 ] && return 0
  [ -s "$dir/out.log" ] || tail -20 "$dir/console.log"
  echo "::: $name FAILED ($status)" >&2
  exit 1
}

play() {
  local name=$1 dir=$2 where=$3 status=0
  $boot/boot.sh "$where" "$dir" & wait $! || status=$?
  played "$name" "$dir" $status
}

test_lint() {
  local found
  # Each tag that is allowed stands in the list with its reason.
  found=$(lintian --fail-on none --suppress-tags-from-file packaging/lintian.allow "$home"/old/*.deb 2>/dev/null | grep -E '^[EWI]:' || true)
  [ -z "$found" ] || { echo "$found" && echo "::: lintian finds fault" >&2 && exit 1; }
  echo "lint: lintian says nothing but what packaging/lintian.allow explains"
  found=$(rpmlint --config packaging/rpmlint.toml "$home"/old/*.rpm 2>/dev/null || true)
  grep -q 'packages and .* checked' <<<"$found" || { echo "$found" && echo "::: rpmlint did not look" >&2 && exit 1; }
  ! grep -qE ': [EW]: ' <<<"$found" || { echo "$found" && echo "::: rpmlint finds fault" >&2 && exit 1; }
  echo "lint: rpmlint says nothing but what packaging/rpmlint.toml explains"
  packaging/check-bills.sh "$home/cyclonedx" "$home"/old/*.cdx.json
}

test_deb() {
  local dir
  dir=$(share deb)
  export KEEP=$home/kept-deb
  rm -rf "$KEEP"
  cp $boot/inside-deb.sh "$dir/inside.sh"
  play deb "$dir" "$tree"
  cp $boot/inside-deb-rebooted.sh "$dir/inside.sh"
  play deb "$dir" "$tree"
  rm -rf "$KEEP"
  unset KEEP
}

test_watched() {
  local dir
  dir=$(share watched)
  cp $boot/inside-watched.sh "$dir/inside.sh"
  play watched "$dir" "$tree"
}

test_rpm() {
  local dir
  dir=$(share rpm)
  cp $boot/inside-rpm.sh "$dir/inside.sh"
  play rpm "$dir" "$tree"
}

test_el9() { $boot/el9.sh "$home"; }

test_boxes() { . $boot/boxes.sh; }

test_static() {
  local dir program
  [ -n "$built" ] || { rm -rf "$home/static" &&
    packaging/build.sh --static --papers "$target/debug/rollcall-papers" --out "$home/static" --version "$version"; }
  for program in rollcall-agent rollcall-collector; do
    if readelf -d "$target/package/static/$program" | grep NEEDED; then
      echo "::: the static $program needs libraries" >&2 && exit 1
    fi
  done
  echo "static: the programs need no library"
  $boot/root.sh "$home/bullseye" bullseye
  dir=$(share static)
  cp $boot/inside-static.sh "$dir/inside.sh"
  play static "$dir" "$home/bullseye"
}

test_reproducible() { packaging/reproduce.sh "$home/old" "$version"; }

: >"$home/summary"
for one in "${tests[@]}"; do
  from=$SECONDS
  echo "::: $one"
  "test_$one"
  echo "::: $one holds, $((SECONDS - from)) s"
  printf '%s: all of it, %d s\n' "$one" $((SECONDS - from)) >>"$home/summary"
done
echo "::: in short"
sed 's/^/:::   /' "$home/summary"
(cd "$home/old" && stat -c ':::   %10s %n' -- *.deb *.rpm)
echo "::: passed in $((SECONDS - begun)) s"
