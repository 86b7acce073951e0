# shellcheck shell=bash
# The static packages on a Debian 11: systemd 247, glibc 2.31, both older than what the others need.
# shellcheck source=packaging/boot/facts.sh
. /share/facts.sh

agent=rollcall-agent collector=rollcall-collector

step "an old distribution"
systemctl --version | sed -n '1s/^/  /p'
ldd --version | sed -n '1s/^/  /p'

step "both packages install and run"
holds "apt installs the collector" apt_install /share/static/rollcall-collector_*.deb
until_true 30 "it is active" active $collector
begun=$(now_ms)
holds "apt installs the sidecar" apt_install /share/static/rollcall-agent_*.deb
until_true 30 "it is active" active $agent
until_true 10 "it says what it waits for" says $agent "waiting for a token at /etc/rollcall/agent/token"
echo 'kind = "poller"' >/etc/rollcall/agent.d/kind.toml
token poller old-1 /etc/rollcall/agent/token
until_true 30 "token to first heartbeat" is_present poller/old-1 alive
until_true 10 "it says where it is" says $agent "connected to"

step "no directive of the units is unknown here"
for unit in $agent.service $agent@blue.service $agent-token.path $agent-token.service $collector.service; do
  is "systemd-analyze verify $unit says" "" "$(systemd-analyze verify --man=no "$unit" 2>&1 | grep -i rollcall)"
done
is "the journal complains of none" "" "$(journalctl --no-pager --output=cat | grep -iE 'unknown (key|lvalue|section)|invalid syntax')"
exposure_table $agent.service $collector.service

step "names are resolved without the C library's plug-ins"
echo '127.0.0.1 collector.example.net' >>/etc/hosts
cat >/etc/rollcall/agent.d/name.toml <<'TOML'
[[probe]]
type = "tcp"
address = "collector.example.net:7410"
rise = 1
[[probe]]
type = "systemd"
unit = "rollcall-collector.service"
rise = 1
TOML
holds "systemctl reload" systemctl reload $agent
until_true 30 "a probe finds it by its name, another over the bus" is_health poller/old-1 healthy

step "kill -9, a restart, the end"
killed=$(pid_of $agent)
kill -9 "$killed"
until_true 30 "it is back" restarted $agent "$killed"
until_true 60 "and heard" is_present poller/old-1 alive
holds "apt purges both" apt-get purge -y $agent $collector
is "files" "" "$(ls -d /var/lib/rollcall* /etc/rollcall /etc/default/rollcall* 2>/dev/null)"
is "failed units" "" "$(systemctl --failed --no-legend)"
finish
