# shellcheck shell=bash
# The same host after a reboot, to the end of both packages.
# shellcheck source=packaging/boot/facts.sh
. /share/facts.sh

agent=rollcall-agent collector=rollcall-collector

step "after a reboot everything comes back by itself"
until_true 30 "the collector" active $collector
until_true 60 "the sidecar is heard" is_present poller/site-1 alive
until_true 60 "the instance is heard" is_present poller/blue-2 alive
is "the identity" "$(cat /root/identity)" "$(identity_of $agent)"
is "the system" running "$(systemctl is-system-running)"

step "remove: nothing runs, everything that matters is kept"
holds "apt removes the sidecar" apt-get remove -y $agent
inactive_all() { ! systemctl list-units --no-legend --state=active,activating "$agent*.service" "$agent*.path" | grep .; }
until_true 30 "no unit of it is active" inactive_all
holds "no process of it is left" not pgrep -u $agent
is "the identity" "$(cat /root/identity)" "$(identity_of $agent)"
holds "the configuration is kept" grep -q '^# mine' /etc/rollcall/agent.toml
is "failed units" "" "$(systemctl --failed --no-legend)"
holds "installed again" apt_install /share/newer/rollcall-agent_*.deb
until_true 60 "it goes on as who it was" is_present poller/site-1 alive
until_true 60 "so does the instance" is_present poller/blue-2 alive
is "the identity" "$(cat /root/identity)" "$(identity_of $agent)"

step "purge: nothing is left but the user"
holds "apt purges the sidecar" apt-get purge -y $agent
holds "apt purges the collector" apt-get purge -y $collector
is "files" "" "$(ls -d /var/lib/rollcall* /etc/rollcall /etc/default/rollcall* /run/rollcall* /usr/share/rollcall* /usr/lib/rollcall* 2>/dev/null)"
is "links of units" "" "$(find /etc/systemd /var/lib/systemd/deb-systemd-helper* -name '*rollcall*' 2>/dev/null)"
is "failed units" "" "$(systemctl --failed --no-legend)"
holds "no process is left" not pgrep -f /usr/bin/rollcall-
holds "the user stays" getent passwd $agent
finish
