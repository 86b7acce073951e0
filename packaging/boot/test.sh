#!/usr/bin/env bash
# The packages on real, booted systems: `make test-packages`. About ten minutes from warm builds, most of them the
# packages' own.
#
#   packaging/boot/test.sh [--binaries DIR | --built] [TEST …]     TEST: lint deb beforehand rpm boxes
#
#   --binaries   programs that are built already, instead of release builds
#   --built      the packages of the last run
#
# Needs root: systemd-nspawn boots the trees. What is missing is installed where that is allowed; where it is not, this
# says so and fails.
set -euo pipefail
cd "$(dirname "$0")/../.."
boot=packaging/boot

given=() built='' tests=()
while [ $# -gt 0 ]; do
  case $1 in
    --binaries) given=(--binaries "$2") && shift ;;
    --built) built=yes ;;
    *) tests+=("$1") ;;
  esac
  shift
done
[ ${#tests[@]} -gt 0 ] || tests=(lint deb beforehand rpm boxes)

[ "$(id -u)" -eq 0 ] || { echo "booting a system takes root: sudo make test-packages" >&2 && exit 1; }
tests/setup.sh systemd-nspawn:systemd-container debootstrap:debootstrap dbus-daemon:dbus ip:iproute2 \
  lintian:lintian rpmlint:rpmlint rpm:rpm

begun=$SECONDS
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
home=$target/boot
tree=$home/bookworm
mkdir -p "$home"
$boot/root.sh "$tree" bookworm

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
if [ -z "$built" ]; then
  echo "::: the packages, and the same ones as an upgrade"
  rm -rf "$home/old" "$home/new"
  packaging/build.sh "${given[@]}" --out "$home/old" --version "$version"
  [ ${#given[@]} -gt 0 ] || given=(--binaries "$target/package/dynamic")
  packaging/build.sh "${given[@]}" --out "$home/new" --version "$version+1"
fi

# share NAME FILE…: a folder that a machine sees as /share.
share() {
  local dir=$home/share-$1
  shift
  rm -rf "$dir"
  mkdir -p "$dir/old" "$dir/new"
  cp $boot/facts.sh "$@" "$dir/"
  for which in old new; do
    # Debug symbols are none of a host's.
    find "$home/$which" \( -name '*.deb' -o -name '*.rpm' \) ! -name '*-dbgsym*' ! -name '*-debuginfo*' -exec ln -t "$dir/$which" {} +
  done
  echo "$dir"
}

# played NAME SHARE: what a machine said; fails where it did.
played() {
  local name=$1 dir=$2 status=$3
  sed "s/^/$name: /" "$dir/out.log" 2>/dev/null || true
  [ "$status" -eq 0 ] && return 0
  [ -s "$dir/out.log" ] || tail -20 "$dir/console.log"
  echo "::: $name FAILED ($status)" >&2
  exit 1
}

play() {
  local name=$1 dir=$2 status=0
  $boot/boot.sh "$tree" "$dir" || status=$?
  played "$name" "$dir" $status
}

test_lint() {
  local found
  # Each tag that is allowed stands in the list with its reason.
  found=$(lintian --fail-on none --suppress-tags-from-file packaging/lintian.allow "$home"/old/*.deb 2>/dev/null | grep -E '^[EWI]:' || true)
  [ -z "$found" ] || { echo "$found" && echo "::: lintian finds fault" >&2 && exit 1; }
  found=$(rpmlint --config packaging/rpmlint.toml "$home"/old/*.rpm 2>/dev/null || true)
  ! grep -qE ': [EW]: ' <<<"$found" || { echo "$found" && echo "::: rpmlint finds fault" >&2 && exit 1; }
  echo "lint: nothing but what packaging/lintian.allow and packaging/rpmlint.toml explain"
}

test_deb() {
  local dir
  dir=$(share deb)
  export KEEP=$home/kept-deb
  rm -rf "$KEEP"
  cp $boot/inside-deb.sh "$dir/inside.sh"
  play deb "$dir"
  cp $boot/inside-deb-rebooted.sh "$dir/inside.sh"
  play deb "$dir"
  rm -rf "$KEEP"
  unset KEEP
}

test_beforehand() {
  local dir
  dir=$(share beforehand)
  cp $boot/inside-beforehand.sh "$dir/inside.sh"
  play beforehand "$dir"
}

test_rpm() {
  local dir
  dir=$(share rpm)
  cp $boot/inside-rpm.sh "$dir/inside.sh"
  play rpm "$dir"
}

test_boxes() { . $boot/boxes.sh; }

for one in "${tests[@]}"; do
  from=$SECONDS
  echo "::: $one"
  "test_$one"
  echo "::: $one holds, $((SECONDS - from)) s"
done
echo "::: passed in $((SECONDS - begun)) s"
