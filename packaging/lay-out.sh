# shellcheck shell=bash
# The tree of a package, and the two packages made from it. Sourced by build.sh, which sets version, etc (what goes
# there), lean (without debug symbols) and SOURCE_DATE_EPOCH.
: "${version:?}" "${etc:?}" "${lean?}" "${SOURCE_DATE_EPOCH:?}"

maintainer='Rollcall maintainers <rollcall@users.noreply.github.com>'
home_page=https://github.com/rollcall/rollcall

# What a package is, in one line and in a few.
summary_of() {
  case $1 in
    rollcall-agent) echo "sidecar that tells whether the service beside it lives" ;;
    rollcall-collector) echo "liveness and lifecycle of a fleet of pollers, agents and checkers" ;;
  esac
}
description_of() {
  case $1 in
    rollcall-agent) cat <<'TEXT' ;;
The Rollcall sidecar runs beside one poller, agent, checker or instance of a
monitoring deployment. It enrolls once with an onboarding token, then sends
heartbeats over QUIC with mutual TLS to a collector.
TEXT
    rollcall-collector) cat <<'TEXT' ;;
The Rollcall collector hears the heartbeats of sidecars, keeps who is alive,
the lifecycle of every service and an audit trail, and answers over HTTP. Its
registry is embedded: nothing else has to be installed.
TEXT
  esac
}

# put MODE SOURCE DESTINATION
put() { install -D -m "$1" "$2" "$3"; }
# The same, compressed without a name or time of its own.
put_gz() { mkdir -p "$(dirname "$2")" && gzip -9 -n -c "$1" >"$2" && chmod 0644 "$2"; }

# lay_out PROGRAM BINARY PAPERS TREE: TREE/root is what both packages have, TREE/debug the symbols.
lay_out() {
  local program=$1 binary=$2 papers=$3 tree=$4 name=${1#rollcall-} root=$4/root page section id file
  local doc=$root/usr/share/doc/$program
  mkdir -p "$root/usr/bin"
  objcopy --strip-all "$binary" "$root/usr/bin/$program"
  chmod 0755 "$root/usr/bin/$program"
  id=$(readelf -n "$binary" | sed -n 's/^ *Build ID: //p')
  [ -n "$id" ] || { echo "$binary has no build id, which debug symbols are found by" >&2 && return 1; }
  mkdir -p "$tree/debug/usr/lib/debug/.build-id/${id:0:2}"
  objcopy --only-keep-debug --compress-debug-sections "$binary" "$tree/debug/usr/lib/debug/.build-id/${id:0:2}/${id:2}.debug"
  chmod 0644 "$tree/debug/usr/lib/debug/.build-id/${id:0:2}/${id:2}.debug"

  for file in "packaging/systemd/$program"[.@-]*; do put 0644 "$file" "$root/usr/lib/systemd/system/${file##*/}"; done
  put 0644 "packaging/sysusers.d/$program.conf" "$root/usr/lib/sysusers.d/$program.conf"
  [ ! -e "packaging/sysctl.d/10-$program.conf" ] ||
    put 0644 "packaging/sysctl.d/10-$program.conf" "$root/usr/lib/sysctl.d/10-$program.conf"
  put 0644 "$etc/$name.toml" "$root/usr/share/$program/$name.toml"
  install -d -m 0755 "$root/etc/rollcall/$name" "$root/etc/rollcall/$name.d"
  if [ "$program" = rollcall-agent ]; then
    put 0755 packaging/libexec/token-came "$root/usr/lib/rollcall-agent/token-came"
    for file in packaging/dropins/*.conf packaging/config/examples/*.toml; do put 0644 "$file" "$doc/examples/${file##*/}"; done
  fi
  put 0644 "packaging/config/$name.toml" "$doc/examples/$name.toml"

  for page in "$papers"/man/*; do
    section=${page##*.}
    put_gz "$page" "$root/usr/share/man/man$section/${page##*/}.gz"
  done
  put 0644 "$papers/completions/$program" "$root/usr/share/bash-completion/completions/$program"
  put 0644 "$papers/completions/$program.fish" "$root/usr/share/fish/vendor_completions.d/$program.fish"
  put_gz CHANGELOG.md "$doc/changelog.gz"
  put_gz "$papers/licences.txt" "$doc/licences.txt.gz"
  put_gz "$papers/sbom.cdx.json" "$doc/sbom.cdx.json.gz"
}

# One time for every file.
settle() { find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +; }

# control NAME DEPENDS SECTION: the head of a control file.
control() {
  printf 'Package: %s\nSource: rollcall\nVersion: %s-1\nArchitecture: %s\nMaintainer: %s\nSection: %s\nPriority: optional\n' \
    "$1" "$version" "$(dpkg --print-architecture)" "$maintainer" "$3"
  [ -z "$2" ] || printf 'Depends: %s\n' "$2"
}

# finish_deb TREE OUT LEVEL: sums, sizes, archive. TREE/DEBIAN/control is there, but for its last fields.
finish_deb() {
  local tree=$1 out=$2 level=$3
  (cd "$tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
  sed -i "s/^@SIZE@\$/Installed-Size: $(du -k --apparent-size -s --exclude=DEBIAN "$tree" | cut -f1)/" "$tree/DEBIAN/control"
  chmod 0644 "$tree"/DEBIAN/{md5sums,control}
  settle "$tree"
  dpkg-deb --root-owner-group -Zxz "-z$level" --build "$tree" "$out" >/dev/null
}

make_deb() {
  local program=$1 tree=$2 out=$3 name=${1#rollcall-} deb=$2/deb dbg=$2/deb-debug needs script
  cp -a "$tree/root" "$deb"
  mkdir -p "$deb/DEBIAN"
  put 0644 "$etc/$name.default" "$deb/etc/default/$program"
  put 0644 "$tree/../papers/$program/completions/_$program" "$deb/usr/share/zsh/vendor-completions/_$program"
  echo "/etc/default/$program" >"$deb/DEBIAN/conffiles"
  for script in packaging/deb/"$name"/*; do put 0755 "$script" "$deb/DEBIAN/${script##*/}"; done
  mkdir -p "$tree/shlibs/debian" && printf 'Source: rollcall\n\nPackage: %s\nArchitecture: any\n' "$program" >"$tree/shlibs/debian/control"
  needs=$(cd "$tree/shlibs" && dpkg-shlibdeps -O "$deb/usr/bin/$program" 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
  {
    control "$program" "${needs:+$needs, }systemd | systemd-standalone-sysusers, systemd | systemd-sysv" "$([ "$name" = agent ] && echo net || echo admin)"
    printf '@SIZE@\nHomepage: %s\nDescription: %s\n' "$home_page" "$(summary_of "$program")"
    description_of "$program" | sed 's/^/ /'
  } >"$deb/DEBIAN/control"
  local doc=$deb/usr/share/doc/$program
  cat >"$doc/copyright" <<TEXT
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: rollcall
Source: $home_page
Comment: The program is linked from crates whose licences are in licences.txt.gz.

Files: *
Copyright: 2026 The Rollcall authors
License: Apache-2.0

License: Apache-2.0
 On Debian systems, the full text of the Apache License version 2.0 is in
 /usr/share/common-licenses/Apache-2.0.
TEXT
  {
    printf 'rollcall (%s-1) unstable; urgency=medium\n\n  * Release %s; what is new is in changelog.gz.\n\n -- %s  %s\n' \
      "$version" "$version" "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")"
  } | gzip -9 -n >"$doc/changelog.Debian.gz"
  chmod 0644 "$doc"/*
  find "$doc" -type d -exec chmod 0755 {} +
  finish_deb "$deb" "$out" 6

  [ -z "$lean" ] || return 0
  mkdir -p "$dbg/DEBIAN"
  cp -a "$tree/debug/usr" "$dbg/usr"
  {
    control "$program-dbgsym" "$program (= $version-1)" debug
    printf 'Auto-Built-Package: debug-symbols\nBuild-Ids: %s\n@SIZE@\nDescription: debug symbols for %s\n' \
      "$(find "$dbg" -name '*.debug' | sed 's|.*/\(..\)/\(.*\)\.debug|\1\2|')" "$program"
  } >"$dbg/DEBIAN/control"
  mkdir -p "$dbg/usr/share/doc" && ln -s "$program" "$dbg/usr/share/doc/$program-dbgsym"
  # Its sections are compressed already.
  finish_deb "$dbg" "$out" 0
}

make_rpm() {
  local program=$1 tree=$2 out=$3 name=${1#rollcall-} rpm=$2/rpm-root dbg=$2/debug
  cp -a "$tree/root" "$rpm"
  put 0644 "$etc/$name.default" "$rpm/etc/sysconfig/$program"
  put 0644 "$etc/$name.toml" "$rpm/etc/rollcall/$name.toml"
  put 0644 "$tree/../papers/$program/completions/_$program" "$rpm/usr/share/zsh/site-functions/_$program"
  put 0644 LICENSE "$rpm/usr/share/licenses/$program/LICENSE"
  [ -n "$lean" ] || cp -a "$dbg/usr/lib/debug" "$rpm/usr/lib/debug"
  settle "$rpm"
  # Old distributions do not read zstd.
  local payload=w12.zstdio
  [ "${variant:-dynamic}" = dynamic ] || payload=w9.gzdio
  rpmbuild -bb --quiet --target "$(uname -m)" \
    --define "_topdir $tree/rpmbuild" --define "_rpmdir $out" --define "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
    --define "_buildhost rollcall" --define "use_source_date_epoch_as_buildtime 1" \
    --define "clamp_mtime_to_source_date_epoch 1" --define "source_date_epoch_from_changelog 0" \
    --define "_build_id_links none" --define "_binary_payload $payload" --define "_source_payload $payload" \
    --define "debug_package %{nil}" --define "__os_install_post %{nil}" --define "_dbpath $tree/rpmdb" \
    --define "lean ${lean:-no}" --define "staged $rpm" --define "edition $version" --define "the_summary $(summary_of "$program" | sed 's/^./\U&/')" \
    --define "home_page $home_page" --define "maintainer $maintainer" \
    --define "today $(date -u -d "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')" \
    "packaging/rpm/$program.spec"
}
