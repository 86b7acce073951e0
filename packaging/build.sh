#!/usr/bin/env bash
# Builds the packages of both programs: .deb and .rpm, each with its debug symbols apart. The same commit gives the same
# bytes, wherever it is checked out: times come from the commit, paths are mapped away.
#
#   packaging/build.sh [--static] [--version VERSION] [--binaries DIR] [--papers PROGRAM] [--etc DIR] [--lean] [--out DIR]
#
#   --static     programs that need nothing of the system, for distributions with an older C library
#   --version    instead of the workspace's
#   --binaries   programs that are built already, instead of release builds
#   --papers     a rollcall-papers that is built already
#   --etc        what goes to /etc, instead of packaging/etc
#   --lean       without debug symbols
#   --out        where the packages go [default: packages/ in the target folder; with --static packages/static/]
#
# dpkg-deb and rpmbuild do it, from one tree a program that is laid out here: the distributions' own tools, which are
# on every builder and have done this for decades, instead of two more programs to compile.
set -euo pipefail
cd "$(dirname "$0")/.."

here=$PWD
target=${CARGO_TARGET_DIR:-$here/target}
triple=$(rustc -vV | sed -n 's/^host: //p')
variant=dynamic version='' binaries='' papers='' etc=packaging/etc lean='' out=''
while [ $# -gt 0 ]; do
  case $1 in
    --static) variant=static ;;
    --version) version=$2 && shift ;;
    --binaries) binaries=$(realpath "$2") && shift ;;
    --papers) papers=$(realpath "$2") && shift ;;
    --etc) etc=$(realpath "$2") && shift ;;
    --lean) lean=yes ;;
    --out) out=$2 && shift ;;
    *) sed -n '5,13s/^# *//p' "$0" >&2 && exit 64 ;;
  esac
  shift
done
[ -n "$version" ] || version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
if [ -z "$out" ]; then
  out=$target/packages
  [ $variant = dynamic ] || out=$out/static
fi

tests/setup.sh dpkg-deb:dpkg dpkg-shlibdeps:dpkg-dev rpmbuild:rpm objcopy:binutils gzip:gzip

export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
# One thread each: how a stream is cut into blocks must not follow from the number of processors.
export LC_ALL=C TZ=UTC DPKG_DEB_THREADS_MAX=1
umask 022
. packaging/lay-out.sh
day=$(date -u -d "@$SOURCE_DATE_EPOCH" +%F)

# Release builds in a folder of their own: their flags differ from everybody else's.
compile() {
  local home=${CARGO_HOME:-$HOME/.cargo} flags cflags
  flags="--remap-path-prefix=$here=/usr/src/rollcall --remap-path-prefix=$home=/usr/src/cargo"
  cflags="-ffile-prefix-map=$here=/usr/src/rollcall -ffile-prefix-map=$home=/usr/src/cargo"
  case $target in "$here"/*) ;; *)
    flags="$flags --remap-path-prefix=$target=/usr/src/rollcall/target"
    cflags="$cflags -ffile-prefix-map=$target=/usr/src/rollcall/target"
    ;;
  esac
  [ $variant = dynamic ] || flags="$flags -C target-feature=+crt-static"
  # Without the date, which none of them asks for: C sources would be compiled anew at each commit.
  local cargo=(env -u SOURCE_DATE_EPOCH CARGO_INCREMENTAL=0
    CARGO_PROFILE_RELEASE_STRIP=none CARGO_PROFILE_RELEASE_DEBUG=line-tables-only
    CARGO_PROFILE_AGENT_STRIP=none CARGO_PROFILE_AGENT_DEBUG=line-tables-only
    "${CARGO:-cargo}" build --locked --target "$triple" --target-dir "$target/package")
  # It aborts where it panics: nothing unwinds, and tables for that would only lie in memory. Debuggers
  # have theirs among the symbols.
  RUSTFLAGS="$flags -C force-unwind-tables=no" CFLAGS="$cflags -fno-asynchronous-unwind-tables" \
    "${cargo[@]}" --profile agent --package rollcall-agent
  RUSTFLAGS=$flags CFLAGS=$cflags "${cargo[@]}" --release --package rollcall-collector
  binaries=$target/package/$variant
  mkdir -p "$binaries"
  cp "$target/package/$triple/agent/rollcall-agent" "$target/package/$triple/release/rollcall-collector" "$binaries/"
}
done_with() { echo "::: $1: $((SECONDS - since)) s" && since=$SECONDS; }
since=$SECONDS
if [ -z "$binaries" ]; then
  compile
  done_with "release builds, $variant"
fi

# The papers come from the programs' own command lines, through the build that the tests use.
if [ -z "$papers" ]; then
  env -u SOURCE_DATE_EPOCH "${CARGO:-cargo}" build --workspace --locked
  papers=$target/debug/rollcall-papers
  done_with "what makes the papers"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$papers" --edition "$version" --date "$day" --out "$work/papers"

mkdir -p "$out"
for program in rollcall-agent rollcall-collector; do
  lay_out "$program" "$binaries/$program" "$work/papers/$program" "$work/$program"
  make_deb "$program" "$work/$program" "$out"
  make_rpm "$program" "$work/$program" "$out"
  cp "$work/papers/$program/sbom.cdx.json" "$out/$program-$version.cdx.json"
done
(cd "$out" && sha256sum -- *.deb *.rpm *.cdx.json >SHA256SUMS && stat -c '%10s %n' -- *.deb *.rpm)
done_with "packages"
echo "the packages are in $out, after $SECONDS s"
