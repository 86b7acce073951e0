# shellcheck shell=bash
# The machine with three sidecars: the host's own and two instances.
# shellcheck source=packaging/boot/facts.sh
. /share/facts.sh

agent=rollcall-agent
units="$agent $agent@two $agent@three"

step "three sidecars, once there are tokens"
until_true 120 "tokens" test -e /meet/tokens
mkdir -p /etc/rollcall/agent
for file in agent.toml agent/two.toml agent/three.toml; do echo 'kind = "poller"' >/etc/rollcall/$file; done
install -m 0600 /meet/token-1 /etc/rollcall/agent/token
install -m 0600 /meet/token-2 /etc/rollcall/agent/two.token
install -m 0600 /meet/token-3 /etc/rollcall/agent/three.token
holds "apt installs the sidecar" apt-get install -y --no-install-recommends /share/old/rollcall-agent_*.deb
systemctl start $agent@two $agent@three
for unit in $units; do until_true 60 "$unit is live" says "$unit" "connected to 10.99.0.1"; done
before=$(for unit in $units; do pid_of "$unit"; done | tr '\n' ' ')

step "a cable that is cut and mended"
until_true 120 "it is cut" test -e /meet/cut-done
not_live() { not says "$1" "connected to"; }
for unit in $units; do until_true 60 "$unit has noticed" not_live "$unit"; done
# shellcheck disable=SC2086
systemctl show --property=StatusText --value $units | sed '/^$/d; s/^/  /'
touch /meet/noticed
until_true 120 "it is mended" test -e /meet/mend-done
for unit in $units; do until_true 120 "$unit is live again" says "$unit" "connected to 10.99.0.1"; done
is "the processes" "$before" "$(for unit in $units; do pid_of "$unit"; done | tr '\n' ' ')"
until_true 120 "the other machine is done" test -e /meet/over
finish
