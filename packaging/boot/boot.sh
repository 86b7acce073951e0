#!/usr/bin/env bash
# Boots a tree with systemd as PID 1, runs SHARE/inside.sh in it as root, and ends with its exit status; 124 where that
# took longer than BOOT_TIMEOUT (300) seconds. What it printed is in SHARE/out.log. Whoever ends this script ends the
# machine with it, and what a killed one left behind goes with the next test.sh.
#
#   packaging/boot/boot.sh TREE SHARE [OPTION OF SYSTEMD-NSPAWN …]
#
# The tree stays as it is, unless KEEP names a directory: what the boot changes goes there, and a later boot with the
# same one goes on from it, as after a reboot. NETNS joins a network namespace; without it there is loopback alone.
set -u

tree=$(realpath "$1") share=$(realpath "$2")
shift 2
rm -f "$share/out.log" "$share/rc"

args=(--volatile=overlay)
if [ -n "${KEEP:-}" ]; then
  mkdir -p "$KEEP/upper" "$KEEP/work" "$KEEP/tree"
  mount -t overlay overlay -o "lowerdir=$tree,upperdir=$KEEP/upper,workdir=$KEEP/work" "$KEEP/tree" || exit 125
  tree=$KEEP/tree args=()
fi
if [ -n "${NETNS:-}" ]; then args+=("--network-namespace-path=/run/netns/$NETNS"); else args+=(--private-network); fi

# nspawn makes its groups below its own: without one apiece, two boots would share a tree of units.
machine=boottest-$$
groups=()
for hierarchy in /sys/fs/cgroup/unified /sys/fs/cgroup/systemd /sys/fs/cgroup; do
  [ -f "$hierarchy/cgroup.procs" ] && mkdir -p "$hierarchy/$machine" && groups+=("$hierarchy/$machine")
done
running=
tidy() {
  if [ -n "$running" ]; then
    kill "$running" 2>/dev/null
    wait "$running" 2>/dev/null
  fi
  for group in "${groups[@]}"; do find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; done
  rmdir "/run/systemd/nspawn/propagate/$machine" 2>/dev/null
  [ -z "${KEEP:-}" ] || umount "$KEEP/tree"
}
trap tidy EXIT
trap 'exit 130' INT TERM HUP
(
  for group in "${groups[@]}"; do echo "$BASHPID" >"$group/cgroup.procs" 2>/dev/null; done
  export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_LOCK=0
  exec timeout -k 5 "${BOOT_TIMEOUT:-300}" systemd-nspawn --quiet --directory="$tree" --machine="$machine" \
    --register=no --keep-unit --console=pipe --bind="$share:/share" "${args[@]}" "$@" \
    --boot -- --unit=boottest.target </dev/null >"$share/console.log" 2>&1
) &
running=$!
wait $running
status=$?
running=
exit $status
