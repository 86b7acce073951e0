# shellcheck shell=bash
# The scriptlets of both .rpm packages under a real service manager: installation, upgrade, erasure. Dependencies are
# not this machine's (--nodeps): it is a Debian, with rpm beside dpkg.
# shellcheck source=packaging/boot/facts.sh
. /share/facts.sh

agent=rollcall-agent collector=rollcall-collector
old=/share/old new=/share/new newer=/share/newer
# Fedora presets disable what they do not name.
mkdir -p /etc/systemd/system-preset
echo 'disable *' >/etc/systemd/system-preset/99-default.preset

step "installation starts nothing and enables nothing: presets decide"
holds "rpm installs both" rpm -ivh --nodeps $old/$agent-[0-9]*.rpm $old/$collector-[0-9]*.rpm
for unit in $agent $collector; do
  is "$unit is" inactive "$(property "$unit" ActiveState)"
  is "and" disabled "$(systemctl is-enabled "$unit")"
done
holds "users" getent passwd $agent $collector
holds "every file is as packaged" rpm -V --nodeps $agent $collector
for unit in $agent.service $agent@blue.service $collector.service; do
  holds "systemd-analyze verify $unit" systemd-analyze verify --man=no --recursive-errors=no "$unit"
done

step "enabled and started"
systemctl enable --now $collector >/dev/null 2>&1
until_true 30 "the collector is active" active $collector
echo 'kind = "poller"' >/etc/rollcall/agent.d/kind.toml
cp /etc/rollcall/agent.d/kind.toml /etc/rollcall/agent/blue.toml
token poller site-1 /etc/rollcall/agent/token
token poller blue-1 /etc/rollcall/agent/blue.token
systemctl enable --now $agent $agent@blue >/dev/null 2>&1
until_true 30 "the sidecar is heard" is_present poller/site-1 alive
until_true 30 "and the instance" is_present poller/blue-1 alive
identity=$(identity_of $agent)

step "upgrade: started anew, still enabled, edits kept"
echo '# mine' >>/etc/rollcall/agent.toml
sidecar=$(pid_of $agent) instance=$(pid_of $agent@blue) server=$(pid_of $collector)
holds "rpm upgrades both" rpm -Uvh --nodeps $new/$agent-[0-9]*.rpm $new/$collector-[0-9]*.rpm
until_true 30 "the sidecar was started anew" restarted $agent "$sidecar"
until_true 30 "so was the instance" restarted $agent@blue "$instance"
until_true 30 "so was the collector" restarted $collector "$server"
is "the sidecar is" enabled "$(systemctl is-enabled $agent)"
is "the collector is" enabled "$(systemctl is-enabled $collector)"
is "the identity" "$identity" "$(identity_of $agent)"
holds "the edit is kept" grep -q '^# mine' /etc/rollcall/agent.toml
until_true 60 "the sidecar is heard" is_present poller/site-1 alive

step "a version with another configuration: the administrator's is kept, the new one lies beside it"
echo '# mine' >>/etc/sysconfig/$collector
holds "rpm upgrades both" rpm -Uvh --nodeps $newer/$agent-[0-9]*.rpm $newer/$collector-[0-9]*.rpm
for file in /etc/rollcall/agent.toml /etc/sysconfig/$collector; do
  holds "$file keeps the edit" grep -q '^# mine' $file
  holds "$file.rpmnew has what is new" grep -q "As a later version has it" $file.rpmnew
done
holds "who edited nothing has the new one" grep -q "As a later version has it" /etc/sysconfig/$agent
until_true 60 "the sidecar is heard" is_present poller/site-1 alive

step "a stopped one stays stopped; a downgrade works"
systemctl stop $agent
holds "rpm downgrades" rpm -Uvh --nodeps --oldpackage $old/$agent-[0-9]*.rpm $old/$collector-[0-9]*.rpm
is "it is" inactive "$(property $agent ActiveState)"
systemctl start $agent
until_true 60 "the sidecar is heard" is_present poller/site-1 alive
is "the identity" "$identity" "$(identity_of $agent)"

step "erasure: nothing runs, identity and edits are kept"
holds "rpm erases both" rpm -e --nodeps $agent $collector
none_active() { ! systemctl list-units --no-legend --state=active,activating 'rollcall-*' | grep .; }
until_true 30 "no unit is active" none_active
holds "no process is left" not pgrep -f /usr/bin/rollcall-
is "the identity" "$identity" "$(identity_of $agent)"
holds "the edits are kept aside" grep -q '^# mine' /etc/rollcall/agent.toml.rpmsave /etc/sysconfig/$collector.rpmsave
holds "/etc/rollcall is left with what is the administrator's" test -e /etc/rollcall/agent/token
is "failed units" "" "$(systemctl --failed --no-legend)"
finish
