#!/usr/bin/env bash
# `make fuzz-api`: what the OpenAPI document promises, tried against a running collector with a populated registry.
#
# schemathesis makes requests out of the document, good ones and bad ones, and refuses any 5xx, any status or media
# type that is not declared, and any answer that does not fit its schema. The seed is fixed: a finding comes again.
#   API_EXAMPLES=100  requests for each operation and phase
#   API_SEED=7410     another seed, other requests
#   API_ARGS=...      more arguments for schemathesis, as in API_ARGS='--include-operation-id list_services'
set -euo pipefail
cd "$(dirname "$0")/.."

examples=${API_EXAMPLES:-20} seed=${API_SEED:-7410}
target=${CARGO_TARGET_DIR:-$PWD/target}
tool=$target/schemathesis
# The version is pinned: a newer one would send other requests.
version=4.32.5

if [ "$("$tool/bin/schemathesis" --version 2>/dev/null || true)" != "schemathesis, version $version" ]; then
  echo "installing schemathesis $version into $tool"
  python3 -m venv "$tool"
  "$tool/bin/pip" -q install "schemathesis==$version"
fi

[ -n "${API_BUILT:-}" ] || cargo build --workspace --locked
home=$(mktemp -d)
collector=
finish() {
  [ -z "$collector" ] || kill "$collector" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$home"
}
trap finish EXIT
mkdir -m 700 "$home/state"
cat >"$home/collector.toml" <<TOML
name = "fuzzed"
trust_domain = "fuzz.test"
state_dir = "$home/state"
quic_listen = "127.0.0.1:0"
http_listen = "127.0.0.1:0"
advertise = ["collector.example.net:7411"]
TOML
"$target/debug/rollcall-collector" serve --config "$home/collector.toml" >"$home/log" 2>&1 &
collector=$!
for _ in $(seq 300); do
  [ ! -s "$home/state/endpoints.json" ] || break
  kill -0 "$collector" || { cat "$home/log" >&2; exit 1; }
  sleep 0.1
done
api=http://$(sed -n 's/.*"http": *"\([^"]*\)".*/\1/p' "$home/state/endpoints.json")
credential=$(cat "$home/state/admin.credential")
send() {
  curl -fsS -o /dev/null -H "Authorization: Bearer $credential" -H 'Content-Type: application/json' "$@"
}
# Words that the document's own examples will hit: ids of one letter, and a small tree.
for id in 0 1 a; do
  send "$api/api/admin/services/pollers" -d "{\"id\":\"$id\",\"labels\":{\"site\":\"3\"}}"
  send "$api/api/admin/services/agents" -d "{\"id\":\"$id\",\"parent\":\"$id\"}"
  send "$api/api/admin/services/checkers" -d "{\"id\":\"$id\",\"parent\":\"$id\",\"checker_kind\":\"snmp\"}"
  send "$api/api/admin/services/instances" -d "{\"id\":\"$id\"}"
  send "$api/api/admin/tokens" -d '{"kind":"poller"}'
done

# Streams are tried elsewhere. Whoever closes or revokes the credential that it uses has none left.
status=0
# 503 is a promise too: `behind` answers who asks for a seq that has not come. Nothing else above 499 is.
printf '[checks]\nnot_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]\n' >"$home/schemathesis.toml"
# shellcheck disable=SC2086 # API_ARGS is a list of words
"$tool/bin/schemathesis" --config-file "$home/schemathesis.toml" run "$api/api/openapi.json" \
  --header "Authorization: Bearer $credential" \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
  --phases examples,coverage,fuzzing --mode all --max-examples "$examples" --seed "$seed" \
  --workers 1 --request-timeout 15 --suppress-health-check all --no-color \
  --generation-with-security-parameters false \
  --exclude-path-regex '(/feed|/changes|/bootstrap/close|/keys/.id./revoke)$' ${API_ARGS:-} || status=$?
# A credential that was lost on the way would have made a test of nothing but the guard.
if ! curl -fsS -o /dev/null -H "Authorization: Bearer $credential" "$api/api/admin/services/stats"; then
  echo "the credential works no longer: most requests were refused at the door" >&2
  status=1
fi
if grep -q ' ERROR ' "$home/log"; then
  echo "the collector logged errors:" >&2
  grep ' ERROR ' "$home/log" | head -20 >&2
  status=1
fi
exit "$status"
