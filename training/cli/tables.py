"""The tables of results, from the records. Text only; `graft.training.cli.output` prints them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graft.training.cli.output import Column, Table

if TYPE_CHECKING:
    from graft.service.inference.cuda_check import CudaCheck
    from graft.training.architecture.layers import Layer, ModelSummary
    from graft.training.architecture.summary import Inspection
    from graft.training.data.findings import Finding
    from graft.training.evaluation.comparison import Comparison
    from graft.training.pipelines.info import Info
    from graft.training.results import Evaluation
    from graft.training.robustness.measure import Robustness
    from graft.training.runs.run_folder import Row

SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def comparison(result: "Comparison") -> Table:
    """A row for each strategy on each backbone, best first."""
    columns = (
        Column("strategy"),
        Column("backbone"),
        Column(result.metric, right=True),
        Column("95 % interval"),
        Column("ms/image", right=True),
        Column("time", right=True, optional=True),
        Column("by seed", optional=True),
    )
    rows = tuple(
        (
            row.strategy,
            row.backbone,
            f"{100 * row.accuracy.value:.1f}",
            f"{100 * row.accuracy.low:.1f} to {100 * row.accuracy.high:.1f}",
            row.latency_text,
            f"{row.seconds:.0f} s",
            " ".join(f"{100 * value:.1f}" for value in row.by_seed),
        )
        for row in result.rows
    )
    return Table(columns, rows, ("bold green", *("",) * (len(rows) - 1)))


def metrics(evaluation: "Evaluation") -> Table:
    """A row for each metric, with its 95 % confidence interval."""
    from graft.training.report import notebook

    columns = Column("metric"), Column("value", right=True), Column("95 % interval")
    return Table(columns, notebook.metrics_table(evaluation).rows)


def robustness(measured: "Robustness") -> Table:
    """A row for each corruption and severity."""
    from graft.training.config.corruptions import CORRUPTIONS
    from graft.training.visualization.charts import percent

    columns = (
        Column("corruption"),
        Column("severity", right=True),
        Column("accuracy", right=True),
        Column("95 % interval", optional=True),
        Column("flip rate", right=True),
    )
    rows = tuple(
        (
            name,
            CORRUPTIONS[name].format_severity(result.severity),
            percent(result.accuracy.value),
            f"{percent(result.accuracy.low)} to {percent(result.accuracy.high)}",
            percent(result.flip_rate.value),
        )
        for name, curve in measured.curves.items()
        for result in curve
        if result.severity != CORRUPTIONS[name].identity
    )
    return Table(columns, rows)


def layers(inspection: "Inspection") -> Table:
    """A row for each layer of a network."""
    columns = (
        Column("layer"),
        Column("kind", optional=True),
        Column("kernel", right=True, optional=True),
        Column("stride", right=True, optional=True),
        Column("pad", right=True, optional=True),
        Column("output", right=True),
        Column("weights", right=True),
        Column("", right=True, optional=True),
        Column("M mult-adds", right=True),
        Column("", right=True, optional=True),
        Column("RF", right=True),
        Column("RF stride", right=True, optional=True),
        Column("RF start", right=True, optional=True),
    )
    return Table(columns, tuple(_layer_row(layer, inspection.model_summary) for layer in inspection.model_summary.layers))


def _layer_row(layer: "Layer", model_summary: "ModelSummary") -> tuple[str, ...]:
    from graft.training.architecture import summary

    return (
        layer.name,
        layer.kind,
        summary.format_pair(layer.kernel),
        summary.format_pair(layer.stride),
        summary.format_pair(layer.padding),
        "x".join(map(str, layer.output)) if all(layer.output) else "",
        f"{layer.weights:,}" if layer.weights else "",
        summary.percent(summary.share(layer.weights, model_summary.weights)),
        summary.millions(layer.multiply_adds),
        summary.percent(summary.operations_share(layer, model_summary)),
        *summary.receptive_field_text(layer, model_summary.image_size),
    )


def findings(listed: Sequence["Finding"]) -> Table:
    """A row for each issue of a data set: its severity and its text."""
    rows = tuple((f"{finding.severity}:", finding.text) for finding in listed)
    styles = tuple(SEVERITY_STYLES[finding.severity] for finding in listed)
    return Table((Column(""), Column("")), rows, styles, is_prefix=True)


def differences(rows: Sequence["Row"]) -> Table:
    """A row for each difference between two runs."""
    columns = Column("name"), Column("before"), Column("now")
    return Table(columns, tuple((name, str(before), str(now)) for name, before, now in rows))


def info(found: "Info") -> Table:
    """A row for each fact about this installation and this machine."""
    memory, inference = found.memory, found.inference
    amounts = {"in all": memory.total, "available": memory.available, "limit of the container": memory.limit}
    rows = [
        ("python", found.python),
        *((name, version or "not installed") for name, version in found.libraries.items()),
        ("system", found.system),
        ("processor", found.processor),
        ("cores", f"{found.cores} usable of {found.cores_total}"),
        ("instruction sets", ", ".join(found.instruction_sets) or "unknown"),
        ("memory", ", ".join(f"{_gib(n_bytes)} {name}" for name, n_bytes in amounts.items() if n_bytes) or "unknown"),
        ("inference", f"{inference.engine} on {inference.device}: {inference.error or ', '.join(inference.precisions)}"),
        ("GPU", _gpu(found.gpu)),
        ("cache", f"{found.cache}, {'' if found.cache_complete else 'more than '}{_gib(found.cache_bytes)}"),
        *found.settings.items(),
    ]
    return Table((Column(""), Column("")), tuple(rows), ("bold",) * len(rows))


def _gpu(check: "CudaCheck") -> str:
    """`NVIDIA L4, compute capability 8.9, 22.0 GiB, driver 570.86.15 (CUDA 12.8)`, and why it cannot be used."""
    facts = [check.name, f"compute capability {check.capability}", _gib(check.memory_bytes), f"driver {check.driver}"]
    more = [f"and {check.n_devices - 1} more"] if check.n_devices > 1 else []
    shown = ", ".join([*facts, *more]) if check.name else "none" if check.is_absent else "unknown"
    return f"{shown}: {check.problem}" if check.problem else shown


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:,.0f} MiB"
