#!/usr/bin/env bash
# Installs a wheel into a new environment, and runs a whole analysis there: smoke_test.sh WHEEL [PYTHON]
set -euo pipefail
wheel=$(realpath "$1")
python=$(realpath "$(command -v "${2:-python3}")")
constraints=$(realpath "$(dirname "$0")/../../constraints.txt")
# The code of the wheel is tested, not that of the repository.
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check -c "$constraints" "$wheel"
venv/bin/python -m pip check --disable-pip-version-check
export PATH=$folder/venv/bin:$PATH

cmnet --version
cmnet doctor
cmnet models verify
cmnet demo demo --subjects 1 --frames 4 --workers 0
[ -s demo/run/report/index.html ] && [ -s demo/run/report/sub-phantom-001.html ]

bytes=$(find venv/lib -path '*/cmnet_core/weights/*.safetensors' -printf '%s\n' | awk '{ sum += $1 } END { print sum + 0 }')
echo "The weights have $((bytes / 1000)) kB."
[ "$bytes" -gt 0 ] && [ "$bytes" -le 15000000 ]
echo "$(basename "$wheel") works in an environment of its own."
