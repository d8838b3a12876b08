"""A real SLURM on this one machine, for tests: ``python -m tests.cluster.slurm start|stop|env``. Needs root.

All files are in one folder (``CMNET_SLURM_HOME``); /etc is not changed. Limits are SLURM's defaults, above all
MaxArraySize. Two of the machine's character devices are configured as GPUs, so that tasks get device numbers.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

HOME = Path(os.environ.get("CMNET_SLURM_HOME", "/tmp/cmnet-test-slurm"))
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
CORES = 4  # more than a small machine has, so that tasks run in parallel
_WAIT_S = 180.0  # for a machine that is busy with other work
# An address for documentation (RFC 5737), for machines with loopback alone, where SLURM cannot resolve host names.
_SPARE_ADDRESS = "192.0.2.78/32"

_CONF = """
ClusterName=cmnet
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort=27817
SlurmdPort=27818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
CredType=cred/munge
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
KillWait=5
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={node} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory_mb} Gres=gpu:2 State=UNKNOWN
PartitionName=test Nodes={node} Default=YES MaxTime=INFINITE State=UP DefMemPerCPU={core_mb}
"""


@dataclass(frozen=True)
class Daemon:
    """One of the programs that make up SLURM.

    Attributes:
        name: The program.
        arguments: What it is started with.
    """

    name: str
    arguments: tuple[str, ...]

    def pid(self) -> int | None:
        """The id of its process, if that is running and is this program."""
        try:
            pid = int((HOME / f"{self.name}.pid").read_text())
            running = Path(f"/proc/{pid}/comm").read_text().strip()
        except (OSError, ValueError):
            return None
        return pid if running == self.name[:15] else None


def daemons() -> tuple[Daemon, ...]:
    """Return the daemons in the order in which they are started."""
    munge = (f"--socket={HOME}/munge.socket", f"--pid-file={HOME}/munged.pid", f"--key-file={HOME}/munge.key")
    files = (f"--log-file={HOME}/munged.log", f"--seed-file={HOME}/munged.seed")
    conf = str(HOME / "slurm.conf")
    return Daemon("munged", munge + files), Daemon("slurmctld", ("-f", conf)), Daemon("slurmd", ("-f", conf))


def why_not() -> str:
    """Return why SLURM cannot be started here; empty where it can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"there is no {', '.join(missing)} here: apt-get install slurm-wlm"
    return "" if os.geteuid() == 0 else "only root can start SLURM's daemons"


def environment() -> Mapping[str, str]:
    """Return the environment in which SLURM's commands find this SLURM."""
    return {"SLURM_CONF": str(HOME / "slurm.conf")}


def is_up() -> bool:
    """Check whether all daemons run."""
    return all(daemon.pid() is not None for daemon in daemons())


def start() -> None:
    """Start the daemons that are not running yet."""
    _prepare()
    for daemon in daemons():
        if daemon.pid() is None:
            _run([daemon.name, *daemon.arguments])
            _until(lambda daemon=daemon: daemon.pid() is not None, f"{daemon.name} did not start")
    _until(_is_idle, "the node did not become idle")


def stop() -> None:
    """End all jobs and all daemons."""
    if daemons()[1].pid() is not None:
        _run(["scancel", "--user=root"])
        _until(lambda: not _run(["squeue", "--noheader"]).strip(), "jobs did not end")
    for daemon in reversed(daemons()):
        pid = daemon.pid()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            _until(lambda daemon=daemon: daemon.pid() is None, f"{daemon.name} did not end")


def _prepare() -> None:
    for folder in (HOME, HOME / "state", HOME / "spool"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
    key = HOME / "munge.key"
    if not key.exists():
        key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 10
    node = socket.gethostname().split(".")[0]
    values = {"home": HOME, "node": node, "cores": CORES, "memory_mb": memory_mb, "core_mb": memory_mb // CORES}
    (HOME / "slurm.conf").write_text(_CONF.format(**values))
    devices = ("/dev/null", "/dev/zero")
    (HOME / "gres.conf").write_text("".join(f"NodeName={node} Name=gpu File={device}\n" for device in devices))
    _add_address()


def _add_address() -> None:
    """Add an address on a machine with loopback alone, where SLURM cannot resolve host names."""
    if shutil.which("ip") is None:
        return
    shown = subprocess.run(["ip", "-4", "-o", "addr", "show"], capture_output=True, text=True, check=False).stdout
    if all(" 127." in line for line in shown.splitlines()):
        subprocess.run(["ip", "addr", "add", _SPARE_ADDRESS, "dev", "lo"], capture_output=True, check=False)


def _is_idle() -> bool:
    state = _run(["sinfo", "--noheader", "--format=%T"]).strip()
    if state.startswith(("down", "drain")):
        _run(["scontrol", "update", f"nodename={socket.gethostname().split('.')[0]}", "state=resume"])
    return state.startswith(("idle", "mixed", "allocated", "completing"))


def _run(command: list[str]) -> str:
    """Return the output of a command. It goes through a file, since a daemon would keep a pipe open for ever."""
    with (HOME / "commands.log").open("a") as log, tempfile.TemporaryFile("w+") as printed:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=log,
            check=False,
            env={**os.environ, **environment()},
        )
        printed.seek(0)
        return printed.read()


def _until(true: Callable[[], bool], otherwise: str) -> None:
    ends = time.monotonic() + _WAIT_S
    while not true():
        if time.monotonic() > ends:
            logs = "\n".join(f"{path.name}: {path.read_text()[-800:]}" for path in sorted(HOME.glob("*.log")))
            raise RuntimeError(f"{otherwise}\n{logs}")
        time.sleep(0.1)


def main() -> None:
    """Run the command line."""
    action = sys.argv[1] if len(sys.argv) == 2 else ""
    if action == "env":
        print("\n".join(f"export {name}={value}" for name, value in environment().items()))
    elif action in ("start", "stop"):
        if why_not():
            raise SystemExit(why_not())
        {"start": start, "stop": stop}[action]()
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
