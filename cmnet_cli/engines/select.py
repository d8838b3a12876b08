"""Which engine a command runs on."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

from cmnet_cli.engines.base import SLURM, CaseT, Engine, EngineSpec, Outcome, ReceiptT, Stage
from cmnet_cli.engines.serial import SerialEngine
from cmnet_core.errors import ErrorCode, ManifestError


def open_engine(spec: EngineSpec) -> AbstractContextManager[Engine]:
    """Bring up what the cases will run on; leaving the context stops it.

    Raises:
        ManifestError: There is no such cluster, or it cannot be reached.
    """
    if spec.is_here:
        return nullcontext(SerialEngine())
    if spec.where == SLURM and not spec.workers:
        raise ManifestError(
            "The engine slurm does not know how many workers to ask for.",
            hint="Add --workers N: N jobs of one worker each.",
            code=ErrorCode.CONFIG,
        )
    # Loading Dask takes as long as many a command that does not need it.
    from cmnet_cli.engines import dask_engine

    return dask_engine.open_dask(spec)


def map_cases(stage: Stage[CaseT, ReceiptT], cases: Iterable[CaseT], *, workers: int) -> Iterator[Outcome[ReceiptT]]:
    """Run a stage on every case on this machine.

    Args:
        stage: What to do; loaded once a worker.
        cases: The cases, taken from the iterable only as workers become free.
        workers: Processes to start; 0 works in this process.

    Yields:
        One outcome a case, in the order in which they finish.
    """
    with open_engine(EngineSpec(workers=workers)) as engine:
        yield from engine.map(stage, cases)
