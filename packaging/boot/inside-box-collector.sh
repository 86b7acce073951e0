# shellcheck shell=bash
# The machine with the collector.
# shellcheck source=packaging/boot/facts.sh
. /share/facts.sh

collector=rollcall-collector
services="poller/far-1 poller/far-2 poller/far-3"

step "a collector that others dial"
cat >/tmp/fleet.toml <<'TOML'
advertise = ["10.99.0.1:7411"]
interval = "2s"
ttl = "8s"
TOML
install -D -m 0644 /tmp/fleet.toml /etc/rollcall/collector.d/fleet.toml
holds "apt installs it" apt-get install -y --no-install-recommends /share/old/rollcall-collector_*.deb
until_true 30 "it is active" active $collector
for one in 1 2 3; do rollcall-collector tokens create --kind poller --id far-$one --output raw >/meet/token-$one || { no "a token" && finish; }; done
touch /meet/tokens
for one in $services; do until_true 120 "$one is heard" is_present "$one" alive; done

step "the cable is cut"
touch /meet/cut-please
until_true 30 "it is" test -e /meet/cut-done
for one in $services; do until_true 60 "$one counts as lost" is_present "$one" lost; done

until_true 120 "the other machine has noticed as well" test -e /meet/noticed

step "the cable is mended"
touch /meet/mend-please
until_true 30 "it is" test -e /meet/mend-done
for one in $services; do until_true 120 "$one is heard again" is_present "$one" alive; done

step "and history says so"
for one in $services; do
  rollcall-collector services history "$one" | sed 's/^/  /'
  # Newest first: alive now, lost before that, alive before that.
  seen=$(rollcall-collector services history "$one" --output json | sed -n 's/.*"presence": *"\([a-z_]*\)".*/\1/p' | head -3 | tr '\n' ' ')
  is "the last three rows of $one" "alive lost alive " "$seen"
done
is "restarts" 0 "$(property $collector NRestarts)"
finish
