#!/usr/bin/env bash
# Builds the packages once more, from a copy of the tree at another path and from nothing, and compares the bytes.
#
#   packaging/reproduce.sh DIR [VERSION]     DIR: what build.sh made of this very tree
set -euo pipefail
cd "$(dirname "$0")/.."

first=$(realpath "$1") version=${2:-}
[ -n "$(find "$first" -maxdepth 1 -name '*.deb' -print -quit)" ] || { echo "there are no packages in $first" >&2 && exit 1; }
papers=$(realpath "${CARGO_TARGET_DIR:-target}")/debug/rollcall-papers
elsewhere=$(mktemp -d "${TMPDIR:-/var/tmp}/rollcall-elsewhere.XXXXXX")
trap 'rm -rf "$elsewhere"' EXIT
begun=$SECONDS

# Without history, as in a tarball: the time is all that is taken from it.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
copy=$elsewhere/some/other/place
mkdir -p "$copy"
git ls-files -z | xargs -0 cp --parents --no-dereference -t "$copy"
[ -z "$(git status --porcelain)" ] || echo "the tree has changes that are in no commit; the copy has those of known files"
(
  cd "$copy"
  unset CARGO_TARGET_DIR
  packaging/build.sh ${version:+--version "$version"} --papers "$papers" --out "$elsewhere/out"
) >"$elsewhere/log" 2>&1 || { tail -40 "$elsewhere/log" >&2 && echo "the copy does not build" >&2 && exit 1; }

differ=0
for file in "$first"/*.deb "$first"/*.rpm "$first"/*.cdx.json; do
  name=${file##*/}
  if cmp --quiet "$file" "$elsewhere/out/$name"; then
    printf '  the same bytes  %s  %s\n' "$(sha256sum <"$file" | cut -c1-16)" "$name"
  else
    echo "  DIFFERS  $name"
    differ=$((differ + 1))
  fi
done
if [ $differ -gt 0 ]; then
  kept=${first%/}-elsewhere
  rm -rf "$kept"
  cp -r "$elsewhere/out" "$kept"
  echo "$differ packages differ from those of another path; theirs are in $kept (diffoscope tells where)" >&2
  exit 1
fi
echo "built twice, at two paths: the same bytes ($((SECONDS - begun)) s)"
