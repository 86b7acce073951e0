# shellcheck shell=bash
# A collector in one machine and sidecars in another, over a cable that is cut and mended. Sourced by test.sh; the
# machines agree by files in /meet.
: "${home:?}" "${boot:?}" "${tree:?}" "${near:?}" "${far:?}"

meet=$home/meet
cut_cable() { ip -n $near link set cable down; }
mend_cable() { ip -n $near link set cable up; }
ip netns add $near
ip netns add $far
ip link add cable netns $near type veth peer name cable netns $far
ip -n $near addr add 10.99.0.1/24 dev cable
ip -n $far addr add 10.99.0.2/24 dev cable
for side in $near $far; do
  ip -n $side link set lo up
  ip -n $side link set cable up
done

rm -rf "$meet"
mkdir -p "$meet"
server=$(share box-collector)
cp $boot/inside-box-collector.sh "$server/inside.sh"
sidecars=$(share box-sidecars)
cp $boot/inside-box-sidecars.sh "$sidecars/inside.sh"
NETNS=$near $boot/boot.sh "$tree" "$server" --bind="$meet:/meet" &
first=$!
NETNS=$far $boot/boot.sh "$tree" "$sidecars" --bind="$meet:/meet" &
second=$!

# The cable is in the hands of the machine that sees what comes of it.
while kill -0 $first 2>/dev/null; do
  for act in cut mend; do
    if [ -e "$meet/$act-please" ] && [ ! -e "$meet/$act-done" ]; then
      ${act}_cable
      touch "$meet/$act-done"
    fi
  done
  sleep 0.1
done
status=0
wait $first || status=$?
touch "$meet/over"
played box-collector "$server" $status
status=0
wait $second || status=$?
played box-sidecars "$sidecars" $status
ip netns del $near
ip netns del $far
