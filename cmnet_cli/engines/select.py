"""The choice of the engine that a command runs on."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

from cmnet_cli.engines.base import SLURM, CaseT, Engine, EngineSpec, Outcome, ReceiptT, Stage
from cmnet_cli.engines.serial import SerialEngine
from cmnet_core.errors import ErrorCode, ManifestError


def open_engine(spec: EngineSpec) -> AbstractContextManager[Engine]:
    """Start or connect to the engine that a spec describes; leaving the context stops it.

    Raises:
        ManifestError: There is no such cluster, or it cannot be reached.
    """
    if spec.is_in_process:
        return nullcontext(SerialEngine(spec))
    if spec.target == SLURM and not spec.workers:
        raise ManifestError(
            "The engine slurm needs a number of workers.",
            hint="Add --workers N: N jobs of one worker each.",
            code=ErrorCode.CONFIG,
        )
    # Importing Dask takes longer than many a command that does not need it.
    from cmnet_cli.engines.dask.cluster import open_dask

    return open_dask(spec)


def map_cases(stage: Stage[CaseT, ReceiptT], cases: Iterable[CaseT], *, workers: int) -> Iterator[Outcome[ReceiptT]]:
    """Run a stage on every case on this machine.

    Args:
        stage: The stage; it is opened once per worker.
        cases: The cases, taken from the iterable only as workers become free.
        workers: Number of worker processes; 0 runs the cases in this process.

    Yields:
        One outcome per case, in the order of completion.
    """
    with open_engine(EngineSpec(workers=workers)) as engine:
        yield from engine.map(stage, cases)
