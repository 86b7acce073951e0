# shellcheck shell=bash
# A host that was provisioned before the package came: configuration and token are there already.
# shellcheck source=packaging/boot/facts.sh
. /share/facts.sh

agent=rollcall-agent collector=rollcall-collector
install() { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" </dev/null; }

step "a collector"
holds "apt installs it" install /share/old/rollcall-collector_*.deb
until_true 30 "it is active" active $collector
sysctl net.core.rmem_max net.core.wmem_max | sed 's/^/  /'

step "configuration and token first, the package then"
mkdir -p /etc/rollcall/agent
printf 'kind = "poller"\n' >/etc/rollcall/agent.toml
(umask 077 && rollcall-collector tokens create --kind poller --id early-1 --local --output raw >/etc/rollcall/agent/token)
laid=$(sha256sum /etc/rollcall/agent.toml)
begun=$(date +%s%N)
holds "apt installs the sidecar and asks nothing" install /share/old/rollcall-agent_*.deb
until_true 30 "it is heard" is_present poller/early-1 alive
echo "  installation to first heartbeat: $((($(date +%s%N) - begun) / 1000000)) ms"
is "the file that was there" "$laid" "$(sha256sum /etc/rollcall/agent.toml)"
is "restarts" 0 "$(property $agent NRestarts)"

step "what it weighs"
pid=$(pid_of $agent)
sed -n 's/^VmRSS:[\t ]*/  resident /p; s/^RssAnon:[\t ]*/  of it anonymous /p' "/proc/$pid/status"
stat -c '  %s bytes %n' /usr/bin/$agent /usr/bin/$collector
dpkg-query -W -f '  installed ${Installed-Size} KiB ${Package}\n' $agent $collector
finish
