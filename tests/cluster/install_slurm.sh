#!/usr/bin/env bash
# Install the SLURM for tests/cluster from Debian's packages, unless it is installed already.
# Exit codes: 0 installed; 3 not available here, the reason is printed; 1 available, but the installation failed.
set -euo pipefail

# Searches the path each time, since bash caches the location of a program.
is_installed() {
  local program
  for program in munged slurmctld slurmd sbatch squeue scontrol; do
    type -P "$program" >/dev/null || return 1
  done
}

unavailable() {
  echo "slurm-wlm is not installed, and $1."
  exit 3
}

is_installed && exit 0
[ "$(id -u)" -eq 0 ] || unavailable "only root can install it here"
command -v apt-get >/dev/null || unavailable "this is not Debian: install SLURM and MUNGE by hand"
export DEBIAN_FRONTEND=noninteractive

# The package would start its daemons, which have no configuration here; this policy prevents it.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod +x $policy
  trap 'rm -f "$policy"' EXIT
fi

log=$(mktemp)
for _ in 1 2 3; do # A mirror may fail once.
  apt-get update -qq >"$log" 2>&1 || true
  if apt-get install -y -qq --no-install-recommends slurm-wlm munge >>"$log" 2>&1 && is_installed; then
    exit 0
  fi
  sleep 5
done
tail -n 5 "$log"
# If the packages can be downloaded, the installation should have succeeded.
apt-get install -y -qq --no-install-recommends --download-only slurm-wlm munge >/dev/null 2>&1 ||
  unavailable "its packages cannot be downloaded"
exit 1
