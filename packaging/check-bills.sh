#!/usr/bin/env bash
# Holds bills of materials against the schema of CycloneDX, strictly, with the validator of those who write it.
#
#   packaging/check-bills.sh DIR FILE…     DIR: where the validator is kept, fetched once
set -euo pipefail

kept=$1
shift
validator='cyclonedx-python-lib[json-validation]==11.5.0'
"$(dirname "$0")/../tests/setup.sh" python3:python3 pip3:python3-pip
if [ "$(cat "$kept/.holds" 2>/dev/null)" != "$validator" ]; then
  rm -rf "$kept"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$kept" "$validator" || {
    echo "pip could not fetch $validator, which has the schema: bills of materials were not checked" >&2
    exit 1
  }
  echo "$validator" >"$kept/.holds"
fi
PYTHONPATH=$kept python3 - "$@" <<'PYTHON'
import json, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

for name in sys.argv[1:]:
    text = open(name, encoding="utf-8").read()
    bill = json.loads(text)
    version = SchemaVersion.from_version(bill["specVersion"])
    error = JsonStrictValidator(version).validate_str(text)
    if error is not None:
        sys.exit(f"{name} is no CycloneDX {bill['specVersion']}: {error}")
    # What the schema cannot say: every part has a licence, a hash, and is depended upon.
    named = {part["bom-ref"] for part in bill["components"]}
    bare = [part["bom-ref"] for part in bill["components"] if not part.get("licenses") or not part.get("hashes")]
    if bare or len(named) != len(bill["components"]):
        sys.exit(f"{name}: without licence or hash, or named twice: {bare}")
    if {ref for edge in bill["dependencies"] for ref in edge["dependsOn"]} != named:
        sys.exit(f"{name}: dependencies and components differ")
    print(f"{name.rsplit('/', 1)[-1]}: CycloneDX {bill['specVersion']}, {len(named)} crates, each with licence and hash")
PYTHON
