"""Dask clusters: starting workers on this machine or as SLURM jobs, and connecting to a running cluster.

Any user who can connect to a Dask scheduler or worker can run code as its owner. Hence the processes that cmnet starts
accept only TLS connections with a certificate that is made for each command and that other users cannot read. Their
HTTP servers, which Dask cannot protect, serve no page.
"""

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster
from distributed.security import Security

from cmnet_cli.engines.base import LOCAL, SLURM, EngineSpec
from cmnet_cli.engines.dask.engine import GPU_RESOURCE, DaskEngine, scheduler_lost_error
from cmnet_cli.engines.dask.worker import WorkerSetup, installed_version
from cmnet_cli.runs.run_folder import report_disk_errors
from cmnet_cli.slurm import sbatch
from cmnet_core import __version__
from cmnet_core.errors import EngineError, ErrorCode, ManifestError

DASK_SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing": False,
    # A worker without free memory is ended at once: pausing or spilling would only delay its end.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    # Their pages have no access control, and can be read by every user of the machine.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}

CONNECT_TIMEOUT_S = 10.0
_START_ATTEMPTS = 3


@contextmanager
def open_dask(spec: EngineSpec) -> Iterator[DaskEngine]:
    """Start the Dask cluster that a spec describes, or connect to it.

    Raises:
        ManifestError: It cannot be started or reached, or its workers have another version of cmnet.
        EngineError: The workers of this machine died while they started.
    """
    # The client has a level of its own: it would log a lost scheduler as tracebacks, beside cmnet's own message.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with dask.config.set(DASK_SETTINGS | {"logging.distributed": "critical"}):
        if spec.target in (LOCAL, SLURM):
            with local_cluster(spec) if spec.target == LOCAL else _slurm_cluster(spec) as cluster:
                # dask-cuda has already assigned the GPUs to its workers.
                gpus = spec.gpus if type(cluster) is LocalCluster else ()
                with Client(cluster) as client:
                    _register(client, WorkerSetup(gpus))
                    yield DaskEngine(client, spec)
        else:
            with _connect(spec.target) as client:
                _require_workers(client, spec.target)
                yield DaskEngine(client, spec)


def local_cluster(spec: EngineSpec) -> LocalCluster:
    """Start workers on this machine. When one dies while it starts, Dask ends all of them: they are started again.

    Raises:
        EngineError: They died in every attempt.
    """
    for _ in range(_START_ATTEMPTS):
        try:
            return _start_local_cluster(spec)
        except RuntimeError as error:
            died = error
    raise EngineError(
        f"The {max(1, spec.workers)} workers died {_START_ATTEMPTS} times while they started: {died}",
        hint="Check that enough memory is free, use fewer --workers, or --workers 0 to run in this process.",
        code=ErrorCode.ENGINE,
    ) from died


def _start_local_cluster(spec: EngineSpec) -> LocalCluster:
    workers = max(1, spec.workers)
    options: dict[str, Any] = {
        "n_workers": workers,
        "threads_per_worker": 1,
        "memory_limit": spec.memory_limit or "auto",
        "security": Security.temporary(),
        "dashboard_address": "127.0.0.1:0",
        "scheduler_kwargs": {"dashboard": False},
        "silence_logs": logging.CRITICAL,
    }
    if not spec.gpus:
        return LocalCluster(**options)
    options["resources"] = {GPU_RESOURCE: 1}
    if importlib.util.find_spec("dask_cuda") is not None and workers <= len(spec.gpus):
        from dask_cuda import LocalCUDACluster

        # It also binds each worker to the cores beside its GPU.
        return LocalCUDACluster(CUDA_VISIBLE_DEVICES=list(spec.gpus), **options)
    return LocalCluster(**options)


@contextmanager
def _slurm_cluster(spec: EngineSpec) -> Iterator[Any]:
    """Start workers as SLURM jobs, which end with the block.

    SLURM checks the script first, since dask-jobqueue does not report a refusal.
    """
    sbatch.require_slurm()
    from dask_jobqueue import SLURMCluster

    # The workers read their certificate there, which only this user can.
    with report_disk_errors(spec.worker_folder):
        before = os.umask(0o077)
        try:
            spec.worker_folder.mkdir(parents=True, exist_ok=True)
        finally:
            os.umask(before)
    cluster = SLURMCluster(
        cores=1,
        processes=1,
        memory=spec.memory_limit or "4GB",
        job_name="cmnet",
        job_extra_directives=[f"--output={sbatch.escape_log_path(spec.worker_folder)}/%j.log", *spec.sbatch],
        security=Security.temporary(),
        shared_temp_directory=str(spec.worker_folder),
        worker_extra_args=["--no-dashboard"],
        job_script_prologue=["export DASK_DISTRIBUTED__WORKER__HTTP__ROUTES='[]'"],
        scheduler_options={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        silence_logs="critical",
    )
    try:
        sbatch.check_script(cluster.job_script())
        # A job that reaches its time limit, or whose node dies, is replaced.
        cluster.adapt(minimum_jobs=spec.workers, maximum_jobs=spec.workers)
    except BaseException:
        cluster.close()
        _remove_certificates(cluster)
        for folder in (spec.worker_folder, *spec.worker_folder.parents[:2]):
            # What SLURM refused leaves no empty run folder.
            with suppress(OSError):
                folder.rmdir()
        raise
    try:
        with cluster:
            yield cluster
    finally:
        _remove_certificates(cluster)


def _remove_certificates(cluster: Any) -> None:
    """Close the temporary files in which dask-jobqueue keeps the certificate of the workers, which removes them."""
    for name, file in vars(cluster).items():
        if name.startswith("_job_") and hasattr(file, "close"):
            file.close()


def _register(client: Client, setup: WorkerSetup) -> None:
    """Set up the workers. When one dies meanwhile, Dask may not have reached the others: it is done again.

    Raises:
        EngineError: It failed in every attempt.
    """
    for _ in range(_START_ATTEMPTS):
        try:
            client.register_plugin(setup)
        except OSError as error:
            died = error
        else:
            return
    raise scheduler_lost_error() from died


def _connect(target: str) -> Client:
    """Connect to a running cluster by its address or scheduler file.

    Raises:
        ManifestError: There is neither such a file nor such a scheduler.
    """
    try:
        if "://" in target:
            return Client(target, timeout=CONNECT_TIMEOUT_S)
        if Path(target).is_file():
            return Client(scheduler_file=target, timeout=CONNECT_TIMEOUT_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise ManifestError(
            f"The Dask scheduler {target} cannot be reached: {error}.",
            hint="Check that it runs and that this machine may connect to it.",
            code=ErrorCode.ENGINE,
        ) from error
    raise ManifestError(
        f"There is no engine '{target}'.",
        hint="Choose local, slurm, an address such as tcp://host:8786, or a scheduler file.",
        code=ErrorCode.ENGINE,
    )


def _require_workers(client: Client, target: str) -> None:
    """Make sure that a running cluster has workers, and that they have this version of cmnet."""
    try:
        versions = set(client.run(installed_version).values())
    except ImportError as error:
        versions = {f"none ({error})"}
    if not versions:
        raise ManifestError(
            f"The Dask scheduler {target} has no workers.",
            hint="Start some with 'dask worker', and run this command again.",
            code=ErrorCode.ENGINE,
        )
    if versions - {__version__}:
        raise ManifestError(
            f"The workers of {target} have cmnet {', '.join(sorted(versions))}, this is {__version__}.",
            hint="Start them from the same environment as this command.",
            code=ErrorCode.ENGINE,
        )
