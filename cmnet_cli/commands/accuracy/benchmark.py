"""The command benchmark: several methods on one cohort, by one protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import Manifest, read_manifest
from cmnet_cli.config import Protocol
from cmnet_cli.console import Messages
from cmnet_cli.engines.base import LOCAL
from cmnet_cli.engines.devices import resolve_device
from cmnet_cli.evaluation.benchmark_page import latex, markdown, print_benchmark
from cmnet_cli.evaluation.benchmark_report import render_benchmark
from cmnet_cli.evaluation.benchmark_summary import Benchmark, summarise_benchmark
from cmnet_cli.evaluation.masks import cases_with_masks
from cmnet_cli.execution.plan import CasePlan, ExecutionSettings, plan_stage, select_cases
from cmnet_cli.execution.runner import ExecutionContext, StageResult, open_execution, run_stage
from cmnet_cli.execution.summary import CommandSummary, print_plan, summarise_dry_run, summarise_stage
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.provenance import State
from cmnet_cli.runs.run_folder import OpenRun, record_end, require_same_manifest, start_run
from cmnet_cli.seals import recording
from cmnet_cli.stages.benchmark.evaluation import NAME, BenchmarkedCase, BenchmarkEvaluationStage
from cmnet_cli.stages.benchmark.known_motion import has_truth
from cmnet_cli.stages.benchmark.motion import TRUTH, BenchmarkStage, benchmark_digest, stage_name
from cmnet_cli.tables.schema import write_table
from cmnet_core.errors import CheckpointError, ErrorCode, ManifestError
from cmnet_core.inference.tracking import load_model
from cmnet_core.io.atomic import write_text
from cmnet_core.methods.registry import METHODS


@dataclass(frozen=True, slots=True)
class BenchmarkRequest:
    """What is compared.

    Attributes:
        methods: Names of the methods; empty for all.
        exclude: Names of methods to leave out.
        model: Name or file of the networks of cmnet.
        protocol: Protocol of the comparison with the masks.
        device: Device of the networks.
    """

    methods: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    model: str = "default"
    protocol: Protocol = Protocol.NATIVE
    device: str = "auto"


def benchmark(
    manifest: Path, out: Path, request: BenchmarkRequest, settings: ExecutionSettings, messages: Messages
) -> CommandSummary:
    """Estimate the motion of every case by every method, and compare them.

    A method that is not installed, or that fails for all cases, costs its own row of the tables only. Results that are
    finished are not computed again.

    Args:
        manifest: The manifest.
        out: The run folder.
        request: Methods, networks and protocol.
        settings: Selection of subjects and execution.
        messages: Where to print.

    Raises:
        ManifestError: There is no such method, or the manifest or the run folder cannot be used.
        CheckpointError: The weights cannot be used.
    """
    cohort = read_manifest(manifest.absolute())
    cases = cases_with_masks(select_cases(cohort.cases, settings), messages, NAME)
    if settings.engine == LOCAL:
        resolve_device(request.device)
    folder = RunFolder(out.absolute())
    require_same_manifest(folder, cohort)
    methods = chosen_methods(request, cases)
    stages, problems = _stages(folder, methods, request, example=example_of(cases).case_id)
    for method, problem in problems.items():
        messages.note(f"{method} is left out: {problem}")
    if settings.dry_run:
        plans = [plan_stage(stage, cases, folder, settings) for stage in stages]
        for stage, plan in zip(stages, plans, strict=True):
            messages.note(stage.method)
            print_plan(plan, messages, dry_run=True)
        return summarise_dry_run(NAME, folder, _all_of(plans))
    with open_execution(folder, NAME, settings, messages, device=request.device) as context:
        opened = start_run(folder.root, cohort, NAME, _facts(request, methods))
        results = _run_methods(stages, cases, opened, context, settings)
        problems |= {method: result.failed[0].message for method, (_, result) in results.items() if result.failed}
        found, evaluated = _evaluate(methods, problems, cases, opened, context, request.protocol)
        _write(folder, found, messages)
        record_end(folder, NAME)
    return _summarise(cohort, folder, results, evaluated)


def chosen_methods(request: BenchmarkRequest, cases: Sequence[Case]) -> tuple[str, ...]:
    """Return the names of the methods to compare; by default all, and the true motion where it is known.

    Raises:
        ManifestError: A name is not that of a method.
    """
    known = (*METHODS, TRUTH)
    unknown = [name for name in (*request.methods, *request.exclude) if name not in known]
    if unknown:
        raise ManifestError(
            f"There is no method {', '.join(unknown)}.", hint=f"Known: {', '.join(known)}.", code=ErrorCode.CONFIG
        )
    every = known if any(has_truth(case) for case in cases) else tuple(METHODS)
    return tuple(name for name in dict.fromkeys(request.methods or every) if name not in request.exclude)


def example_of(cases: Sequence[Case]) -> Case:
    """Return the case of the error maps and volume curves: the first with known motion, or else the first."""
    return next((case for case in cases if has_truth(case)), cases[0])


def _stages(
    folder: RunFolder, methods: Sequence[str], request: BenchmarkRequest, *, example: str
) -> tuple[list[BenchmarkStage], dict[str, str]]:
    """Build the stage of each method that is installed, and say of the others what to install."""
    model = str(Path(request.model).absolute()) if Path(request.model).is_file() else request.model
    model_digest = load_model(model, torch.device("cpu")).digest
    stages, problems = [], {}
    for method in methods:
        try:
            digest = benchmark_digest(method, model_digest)
        except (ManifestError, CheckpointError) as error:
            problems[method] = str(error)
        else:
            stages.append(BenchmarkStage(folder.root, method, model, request.device, digest, example))
    return stages, problems


def _run_methods(
    stages: Sequence[BenchmarkStage],
    cases: Sequence[Case],
    opened: OpenRun,
    context: ExecutionContext,
    settings: ExecutionSettings,
) -> dict[str, tuple[CasePlan, StageResult]]:
    """Run each method on the cases that it has not finished."""
    results = {}
    for stage in stages:
        # Of a cohort with simulated and real cines, only the former have a known motion.
        known = [case for case in cases if stage.method != TRUTH or has_truth(case)]
        plan = plan_stage(stage, known, opened.folder, settings)
        context.messages.note(f"{stage.method}: {len(plan.to_run)} to do, {plan.count(State.DONE)} done before")
        results[stage.method] = (plan, run_stage(stage, plan, opened, context))
    return results


def _evaluate(
    methods: Sequence[str],
    problems: Mapping[str, str],
    cases: Sequence[Case],
    opened: OpenRun,
    context: ExecutionContext,
    protocol: Protocol,
) -> tuple[Benchmark, StageResult]:
    """Evaluate what is stored of all methods, also of earlier commands."""
    found: list[BenchmarkedCase] = []
    stage = BenchmarkEvaluationStage(opened.folder.root, protocol, tuple(methods), example_of(cases).case_id)
    plan = CasePlan(tuple(cases), {case.case_id: (State.PENDING, "") for case in cases})
    result = run_stage(stage, plan, opened, context, on_receipt=found.append)
    order = {case.case_id: number for number, case in enumerate(cases)}
    overlaps = sorted((row for item in found for row in item.overlaps), key=lambda row: order[row["case_id"]])
    motions = sorted((row for item in found for row in item.motions), key=lambda row: order[row["case_id"]])
    messages = {method: problems.get(method, "") for method in methods}
    summary = summarise_benchmark(overlaps, motions, cases=len(cases), messages=messages, protocol=protocol)
    maps = [one for item in found for one in item.maps]
    curves = [one for item in found for one in item.curves]
    return replace(summary, maps=maps, curves=curves), result


def _write(folder: RunFolder, found: Benchmark, messages: Messages) -> None:
    tables = {
        "benchmark": found.overlaps,
        "benchmark_motions": found.motions,
        "benchmark_methods": found.methods,
        "benchmark_summary": found.summary,
        "benchmark_tests": found.tests,
    }
    for name, rows in tables.items():
        write_table(folder.table(name), name, rows)
    pages = {
        folder.benchmark_page: markdown(found),
        folder.benchmark_latex: latex(found),
        folder.benchmark_report: render_benchmark(folder, found),
    }
    with recording(folder.benchmark_page.parent, [path.name for path in pages]):
        for path, text in pages.items():
            write_text(path, text)
    print_benchmark(found, messages)
    messages.result(f"All tables: {folder.benchmark_page}; with plots: {folder.benchmark_report}")


def _facts(request: BenchmarkRequest, methods: Sequence[str]) -> dict[str, Any]:
    return {"settings": {"methods": list(methods), "model": request.model, "protocol": str(request.protocol)}}


def _all_of(plans: Sequence[CasePlan]) -> CasePlan:
    """Join the plans of all methods: one entry per case and method."""
    to_run = tuple(case for plan in plans for case in plan.to_run)
    states = {
        f"{number}-{case_id}": state for number, plan in enumerate(plans) for case_id, state in plan.states.items()
    }
    return CasePlan(to_run, states)


def _summarise(
    cohort: Manifest,
    folder: RunFolder,
    results: Mapping[str, tuple[CasePlan, StageResult]],
    evaluated: StageResult,
) -> CommandSummary:
    """Sum what became of the cases of all methods."""
    each = [summarise_stage(stage_name(method), folder, plan, result) for method, (plan, result) in results.items()]
    failed = (*(failure for summary in each for failure in summary.failed), *evaluated.failed)
    return CommandSummary(
        command=NAME,
        run=str(folder.root),
        done=sum(summary.done for summary in each),
        already_done=sum(summary.already_done for summary in each),
        skipped=sum(summary.skipped for summary in each),
        failed=failed,
        unusable_rows=cohort.left_out,
    )
