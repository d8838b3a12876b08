#!/usr/bin/env bash
# Install the SLURM that tests/cluster runs on, from Debian's packages; what is installed already is left alone.
# Exit codes: 0 it is there; 3 it cannot be had here, the reason is printed; 1 it can be had, but did not install.
set -euo pipefail

# Asks the path itself, for bash remembers where it once found a program, and that it found none.
is_here() {
  local program
  for program in munged slurmctld slurmd sbatch squeue scontrol; do
    type -P "$program" >/dev/null || return 1
  done
}

unavailable() {
  echo "slurm-wlm is not installed, and $1."
  exit 3
}

is_here && exit 0
[ "$(id -u)" -eq 0 ] || unavailable "only root can install it here"
command -v apt-get >/dev/null || unavailable "this is not Debian: install SLURM and MUNGE by hand"
export DEBIAN_FRONTEND=noninteractive

# The package starts its daemons, which have no configuration here; this policy keeps them from it.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod +x $policy
  trap 'rm -f "$policy"' EXIT
fi

log=$(mktemp)
for _ in 1 2 3; do # A mirror that stumbles once is no reason to do without.
  apt-get update -qq >"$log" 2>&1 || true
  if apt-get install -y -qq --no-install-recommends slurm-wlm munge >>"$log" 2>&1 && is_here; then
    exit 0
  fi
  sleep 5
done
tail -n 5 "$log"
# An installation that would begin tells that the packages can be had: then it should have ended well.
apt-get install -y -qq --no-install-recommends --download-only slurm-wlm munge >/dev/null 2>&1 ||
  unavailable "its packages cannot be fetched"
exit 1
