# shellcheck shell=bash
# The life of both .deb packages on a host, from an installation without a token to a purge. Part one of two: a reboot
# lies between this and inside-deb-rebooted.sh.
# shellcheck source=packaging/boot/facts.sh
. /share/facts.sh

agent=rollcall-agent collector=rollcall-collector
old=/share/old new=/share/new newer=/share/newer
# What whoever upgrades unattended says, for a version that changes a file which was edited.
keeping=(-o Dpkg::Options::=--force-confold)

step "install without a token: it runs, waits, and says so"
holds "apt installs the sidecar" apt_install $old/rollcall-agent_*.deb
holds "what to do next is told, in two commands" grep -q 'rollcall-collector onboard' /tmp/apt.log
until_true 30 "the unit is active" active $agent
until_true 10 "it says what it waits for" says $agent "waiting for a token at /etc/rollcall/agent/token"
is "it is enabled" enabled "$(systemctl is-enabled $agent)"
is "the system" running "$(systemctl is-system-running)"
holds "it has a user of its own" getent passwd $agent
is "its state directory" "700 $agent" "$(stat -c '%a %U' /var/lib/$agent)"
is "restarts so far" 0 "$(property $agent NRestarts)"

step "the units, as the service manager reads them here"
for unit in $agent.service $agent@blue.service $agent-token.path $agent-token@blue.path $agent-token.service $agent-token@blue.service; do
  holds "systemd-analyze verify $unit" systemd-analyze verify --man=no --recursive-errors=no "$unit"
done
p=$(pid_of $agent)
is "no privilege to gain" "1 0000000000000000 2" \
  "$(sed -n 's/^NoNewPrivs:\t//p; s/^CapBnd:\t//p; s/^Seccomp:\t//p' "/proc/$p/status" | sort | sed -n 'p' | tr '\n' ' ' | awk '{ print $2, $1, $3 }')"

step "a collector on the same host"
holds "apt installs the collector" apt_install $old/rollcall-collector_*.deb
until_true 30 "it is active" active $collector
until_true 10 "it says where it listens" says $collector "listening: QUIC [::]:7411"
holds "systemd-analyze verify $collector.service" systemd-analyze verify --man=no --recursive-errors=no $collector.service
holds "root needs no login" rollcall-collector stats

step "a token that root alone may read: it goes on by itself"
echo 'kind = "poller"' >/etc/rollcall/agent.d/kind.toml
waited_with=$(pid_of $agent)

token poller site-1 /etc/rollcall/agent/token
until_true 30 "token to first heartbeat" is_present poller/site-1 alive
figure "a token laid down to first heartbeat: $took_ms ms"
holds "it was started anew for it" not test "$(pid_of $agent)" = "$waited_with"
is "the token is root's alone" "600 root" "$(stat -c '%a %U' /etc/rollcall/agent/token)"
until_true 10 "it says where it is" says $agent "connected to"
identity=$(identity_of $agent)

step "an enrolled one is left alone, whatever becomes of the token"
helper() { property $agent-token.service ExecMainExitTimestampMonotonic; }
until_true 30 "the path unit is at rest" inactive $agent-token.service
runs_with=$(pid_of $agent) last_help=$(helper)
token poller site-9 /etc/rollcall/agent/token
token_was_seen() { [ "$(helper)" != "$last_help" ] && inactive $agent-token.service; }
until_true 30 "the new token was seen" token_was_seen
is "the process" "$runs_with" "$(pid_of $agent)"
rm /etc/rollcall/agent/token
holds "without a token file it starts as well" systemctl restart $agent
until_true 30 "and is back" is_present poller/site-1 alive
is "the identity" "$identity" "$(identity_of $agent)"

step "kill -9"
for unit in $agent $collector; do
  killed=$(pid_of "$unit")
  kill -9 "$killed"
  until_true 30 "$unit is back" restarted "$unit" "$killed"
done
until_true 60 "and heard again" is_present poller/site-1 alive
is "the identity" "$identity" "$(identity_of $agent)"

step "a hang: the watchdog ends it"
for unit in $agent $collector; do
  mkdir -p "/run/systemd/system/$unit.service.d"
  printf '[Service]\nWatchdogSec=4s\nTimeoutAbortSec=1s\n' >"/run/systemd/system/$unit.service.d/quick.conf"
done
systemctl daemon-reload
systemctl restart $collector $agent
for unit in $agent $collector; do
  hung=$(pid_of "$unit")
  kill -STOP "$hung"
  until_true 60 "$unit is back" restarted "$unit" "$hung"
  holds "because its watchdog was not fed" logged "$unit" "Watchdog timeout"
done
rm -r /run/systemd/system/rollcall-*.service.d
systemctl daemon-reload
systemctl restart $collector $agent
until_true 60 "and heard again" is_present poller/site-1 alive

step "reload: what does not pass never arrives"
p=$(pid_of $agent)
echo 'nonsense = 1' >/etc/rollcall/agent.d/broken.toml
holds "a broken configuration fails the reload" not systemctl reload $agent
holds "and the journal says where" logged $agent "/etc/rollcall/agent.d/broken.toml:1: nonsense"
rm /etc/rollcall/agent.d/broken.toml
holds "a good one is taken" systemctl reload $agent
until_true 30 "and the sidecar is live" says $agent "connected to"
is "the process" "$p" "$(pid_of $agent)"
p=$(pid_of $collector)
holds "the collector reloads" systemctl reload $collector
is "its process" "$p" "$(pid_of $collector)"

step "a second instance beside it"
echo 'kind = "poller"' >/etc/rollcall/agent/blue.toml
systemctl enable --now $agent@blue >/dev/null 2>&1
until_true 30 "it waits for a token of its own" says $agent@blue "waiting for a token at /etc/rollcall/agent/blue.token"
token poller blue-1 /etc/rollcall/agent/blue.token
until_true 30 "token to first heartbeat" is_present poller/blue-1 alive
figure "a token laid down for an instance to first heartbeat: $took_ms ms"
is "its state directory" "700 $agent" "$(stat -c '%a %U' /var/lib/$agent@blue)"
holds "it answers by its name" sh -c 'rollcall-agent status --instance blue | grep -q "poller/blue-1"'
holds "and the first one by its own" sh -c 'rollcall-agent status | grep -q "poller/site-1"'
blue=$(identity_of $agent@blue)

step "upgrade under load, with edits of the administrator's"
echo 'ROLLCALL_LOG_LEVEL=debug' >>/etc/default/$agent
echo '# mine' >>/etc/rollcall/agent.toml
edited=$(cat /etc/default/$agent /etc/rollcall/agent.toml | sha256sum)
load() { while :; do rollcall-collector services list >/dev/null 2>&1; done; }
load & load & load &
sidecar=$(pid_of $agent) instance=$(pid_of $agent@blue) server=$(pid_of $collector)
holds "apt upgrades both, and asks nothing" apt_install $new/rollcall-agent_*.deb $new/rollcall-collector_*.deb </dev/null
until_true 30 "the sidecar was started anew" restarted $agent "$sidecar"
until_true 30 "so was the instance" restarted $agent@blue "$instance"
until_true 30 "so was the collector" restarted $collector "$server"
until_true 60 "the sidecar is heard" is_present poller/site-1 alive
until_true 60 "the instance is heard" is_present poller/blue-1 alive
# shellcheck disable=SC2046
kill $(jobs -p)
wait
is "the identity" "$identity" "$(identity_of $agent)"
is "the instance's identity" "$blue" "$(identity_of $agent@blue)"
is "edited files" "$edited" "$(cat /etc/default/$agent /etc/rollcall/agent.toml | sha256sum)"
holds "nobody counted as lost meanwhile" sh -c '! rollcall-collector services history poller/site-1 --output json | grep -q "\"lost\""'
is "the version" "$(dpkg-deb -f $new/rollcall-agent_*.deb Version)" "$(dpkg-query -W -f '${Version}' $agent)"

step "a version with another configuration: the administrator's is kept, the new one lies beside it"
holds "apt upgrades" apt_install "${keeping[@]}" $newer/rollcall-agent_*.deb
is "edited files" "$edited" "$(cat /etc/default/$agent /etc/rollcall/agent.toml | sha256sum)"
holds "the new one" grep -q "As a later version has it" /etc/default/$agent.dpkg-dist
rm /etc/default/$agent.dpkg-dist
until_true 60 "it is heard" is_present poller/site-1 alive

step "what an administrator switched off stays off"
systemctl disable --now $agent@blue >/dev/null 2>&1
systemctl stop $agent
holds "a downgrade" apt_install "${keeping[@]}" $old/rollcall-agent_*.deb
is "a stopped one after it" inactive "$(property $agent ActiveState)"
systemctl disable $agent >/dev/null 2>&1
holds "an upgrade" apt_install "${keeping[@]}" $new/rollcall-agent_*.deb
is "a disabled one after it" disabled "$(systemctl is-enabled $agent)"
systemctl mask $agent >/dev/null 2>&1
holds "an upgrade" apt_install "${keeping[@]}" $newer/rollcall-agent_*.deb
is "a masked one after it" "masked inactive" "$(systemctl is-enabled $agent) $(property $agent ActiveState)"
systemctl unmask $agent >/dev/null 2>&1
systemctl enable --now $agent $agent@blue >/dev/null 2>&1
until_true 60 "switched on again" is_present poller/site-1 alive
is "the identity" "$identity" "$(identity_of $agent)"

step "a token that is refused: 78, no loop; the next one gets its chance"
systemctl disable --now $agent@blue >/dev/null 2>&1
rm -r /var/lib/$agent@blue
echo 'rollcall_enr1_nonsense' >/etc/rollcall/agent/blue.token
systemctl start $agent@blue
refused() { [ "$(property $agent@blue ActiveState) $(property $agent@blue ExecMainStatus)" = "failed 78" ]; }
until_true 30 "it gives up with 78" refused
is "restarts" 0 "$(property $agent@blue NRestarts)"
token poller blue-2 /etc/rollcall/agent/blue.token
until_true 30 "a good token brings it up" is_present poller/blue-2 alive
systemctl enable $agent@blue >/dev/null 2>&1

step "a configuration that cannot be: the collector gives up with 78 as well"
echo 'nonsense = 1' >/etc/rollcall/collector.d/broken.toml
systemctl restart $collector
gave_up() { [ "$(property $collector ActiveState) $(property $collector ExecMainStatus)" = "failed 78" ]; }
until_true 30 "78" gave_up
is "restarts" 0 "$(property $collector NRestarts)"
rm /etc/rollcall/collector.d/broken.toml
systemctl reset-failed $collector
systemctl start $collector
until_true 60 "and is back" is_present poller/site-1 alive
echo "$identity" >/root/identity
finish
