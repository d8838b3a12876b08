"""The sweep's tables and plot, from the lines that it left: text and SVG for ``docs/validation.md``."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from markupsafe import Markup
from scipy import stats

from benchmarks.pages import markdown_table, replace_section
from cmnet_cli.report.plot import svg

DEFAULT_MOTION, OURS_RHO = "ours", 0.05
STRUCTURES = {"lv": "LV", "myo": "myocardium", "rv": "RV"}
PICTURE = "sweep.svg"
MEAN_DICE = "dice_ed2es_pct"
Line = dict[str, Any]
Subjects = dict[str, dict[str, float]]

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #707780; }
.middle { text-anchor: middle; } .end { text-anchor: end; }
.grid { stroke: #9aa2ab; stroke-opacity: 0.35; } .axis { stroke: #707780; }
.curve { fill: none; stroke-width: 2.2; }
.curve.lv { stroke: #d9530f; } .curve.myo { stroke: #a58500; } .curve.rv { stroke: #1f84c2; }
.dot.lv, .legend.lv { fill: #d9530f; } .dot.myo, .legend.myo { fill: #a58500; } .dot.rv, .legend.rv { fill: #1f84c2; }
"""
"""Colours that can be read on white as on black: a picture in a page does not know which it is shown on."""


def over_seeds(lines: Sequence[Line], variant: str, seeds: Iterable[int]) -> Subjects:
    """Figures of each subject, as the mean over seeds; a figure that a seed lacks is lacking."""
    chosen = [line["subjects"] for line in lines if line["variant"] == variant and line["seed"] in set(seeds)]
    return {
        subject: {
            name: fmean(one[subject][name] for one in chosen)
            for name in chosen[0][subject]
            if all(name in one[subject] for one in chosen)
        }
        for subject in chosen[0]
    }


def seeds_of(lines: Sequence[Line], variant: str) -> list[int]:
    """The seeds from which a variant was trained."""
    return sorted(line["seed"] for line in lines if line["variant"] == variant)


def values(subjects: Subjects, name: str) -> list[float]:
    """A figure of every subject that has it."""
    return [figures[name] for figures in subjects.values() if name in figures]


def spread(found: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation over subjects."""
    return f"{fmean(found):.{digits}f} ± {stdev(found):.{digits}f}"


def gain(lines: Sequence[Line], variant: str) -> str:
    """Difference of the mean Dice to ours, subject by subject, with its 95 % confidence interval over subjects."""
    seeds = set(seeds_of(lines, variant)) & set(seeds_of(lines, DEFAULT_MOTION))
    if variant == DEFAULT_MOTION or not seeds:
        return ""
    theirs, ours = (over_seeds(lines, name, seeds) for name in (variant, DEFAULT_MOTION))
    differences = [theirs[subject][MEAN_DICE] - ours[subject][MEAN_DICE] for subject in ours]
    reach = float(stats.t.ppf(0.975, len(differences) - 1)) * stdev(differences) / math.sqrt(len(differences))
    mean = fmean(differences)
    return f"{mean:+.1f} ({mean - reach:+.1f} to {mean + reach:+.1f})".replace("-", "\N{MINUS SIGN}")


def row(lines: Sequence[Line], variant: str, name: str) -> list[str]:
    """A variant as a line of a table."""
    seeds = seeds_of(lines, variant)
    subjects = over_seeds(lines, variant, seeds)
    each = [figures for line in lines if line["variant"] == variant for figures in line["subjects"].values()]
    folds = [figures["folded_voxels"] for figures in each]
    missed = int(sum(figures["not_found_ed2es"] for figures in each))
    return [
        name,
        str(len(seeds)),
        *(spread(values(subjects, f"dice_{s}_ed2es_pct")) for s in STRUCTURES),
        gain(lines, variant),
        *(spread(values(subjects, f"hd95_{s}_ed2es_mm")) + ("*" if missed else "") for s in STRUCTURES),
        f"{fmean(folds):.0f}, {max(folds):.0f}",
    ]


HEAD = [
    "",
    "seeds",
    *(f"{name} Dice, %" for name in STRUCTURES.values()),
    "difference to the reference setting, percentage points (95 % interval over subjects)",
    *(f"{name} HD95, mm" for name in STRUCTURES.values()),
    "folded voxels: mean, largest",
]


def still_row(lines: Sequence[Line]) -> list[str]:
    """What no motion at all gives."""
    subjects = over_seeds(lines, DEFAULT_MOTION, seeds_of(lines, DEFAULT_MOTION))
    dice = [spread(values(subjects, f"dice_{s}_still_pct")) for s in STRUCTURES]
    return ["no motion", "", *dice, "", "", "", "", ""]


def swept(lines: Sequence[Line]) -> list[tuple[float, str]]:
    """Values of ρ, in order, each with the variant that it is."""
    names = dict.fromkeys(line["variant"] for line in lines)
    found = [(float(name.removeprefix("ρ = ")), name) for name in names if name.startswith("ρ = ")]
    return sorted([*found, (OURS_RHO, DEFAULT_MOTION)])


def parts(lines: Sequence[Line]) -> list[str]:
    """The other variants, in the order in which they were trained."""
    return [name for name in dict.fromkeys(line["variant"] for line in lines) if not name.startswith("ρ = ")]


def picture(lines: Sequence[Line]) -> str:
    """Dice and HD95 of every structure over ρ, as an SVG file of its own."""
    upper = _panel(lines, "dice_{}_ed2es_pct", "Dice of the ED mask carried to ES (%)")
    lower = _panel(lines, "hd95_{}_ed2es_mm", "HD95 (mm)")
    legend = [
        svg.text(name, (x, 13), kind=f"legend {kind}")
        for x, (kind, name) in zip((250, 284, 370), STRUCTURES.items(), strict=True)
    ]
    below = Markup('<g transform="translate(0 270)">{}</g>').format(lower)
    drawn = svg.picture(440, 530, [upper, *legend, below], text="Dice and HD95 over the weight of the bending energy")
    # The report's pictures take their style from the page around them; this one stands alone.
    head, body = str(drawn).split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg" width="660"><style>{STYLE}</style>{body}\n'


def _panel(lines: Sequence[Line], figure: str, label: str) -> Markup:
    points = [(math.log10(rho), over_seeds(lines, name, seeds_of(lines, name))) for rho, name in swept(lines)]
    curves = {kind: [(x, fmean(values(found, figure.format(kind)))) for x, found in points] for kind in STRUCTURES}
    across = svg.Axis("weight ρ of the bending energy", points[0][0] - 0.05, points[-1][0] + 0.05, ())
    up = svg.axis(label, [y for curve in curves.values() for _, y in curve])
    plot = svg.Plot(across, up)
    marks = [svg.frame(plot)]
    for rho, _ in swept(lines):
        marks.append(svg.text(f"{rho:g}", (plot.x(math.log10(rho)), plot.height - 27), kind="middle"))
    for kind, curve in curves.items():
        places = [(plot.x(x), plot.y(y)) for x, y in curve]
        marks.append(svg.path([places], kind=f"curve {kind}"))
        marks += [svg.dot(at, kind=f"dot {kind}", text=f"{y:.1f}") for at, (_, y) in zip(places, curve, strict=True)]
    return svg.join(marks)


def section(lines: Sequence[Line], missing: Sequence[str] = ()) -> str:
    """The whole text between the marks; ``missing`` names what has not been trained yet."""
    tried = [row(lines, name, name) for name in parts(lines)]
    over = [row(lines, name, f"ρ = {rho:g}") for rho, name in swept(lines)]
    return "\n\n".join(
        [
            textwrap.fill(_budget(lines), 118),
            markdown_table(HEAD, [*tried, still_row(lines)]),
            textwrap.fill(_noise(lines), 118),
            markdown_table(HEAD, over),
            f"![Dice and HD95 over ρ]({PICTURE})",
            *([textwrap.fill(f"Not trained yet: {'; '.join(missing)}.", 118)] if missing else []),
        ]
    )


def _budget(lines: Sequence[Line]) -> str:
    budget, seconds = lines[0]["budget"], [line["cpu_seconds"] for line in lines]
    return (
        f"Each of the {len(lines)} trainings used {budget['training']} patients {budget['epochs']} times in "
        f"{fmean(seconds):.0f} s of one processor (all together {sum(seconds) / 60:.0f} min); "
        f"the metrics are those of {len(lines[0]['subjects'])} other patients: means ± standard deviations over "
        "subjects of each subject's mean over seeds. * marks that some structure was not found, which has no distance."
    )


def _noise(lines: Sequence[Line]) -> str:
    """What the intensity terms weigh, and how much a figure changes by chance alone."""
    worth = lines[0]["worth_of_intensity"]
    told = f"The intensity terms have the weight {worth:.1f}, at which they equal the shape terms for zero motion."
    means = [
        fmean(values(over_seeds(lines, DEFAULT_MOTION, [seed]), MEAN_DICE)) for seed in seeds_of(lines, DEFAULT_MOTION)
    ]
    if len(means) < 2:
        return f"{told} One seed was run: differences of about one percentage point may be due to chance."
    each = " and ".join(f"{mean:.1f} %" for mean in means)
    return (
        f"{told} The mean Dice of the reference setting is {each} for its seeds; smaller differences may be due to "
        "chance."
    )


def write_page(page: Path, lines: Sequence[Line], missing: Sequence[str]) -> None:
    """Put tables into the page's section, and the plot beside the page."""
    page.with_name(PICTURE).write_text(picture(lines), encoding="utf-8")
    replace_section(page, "sweep", section(lines, missing))
