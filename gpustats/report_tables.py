"""The table of clusters as a report shows it: columns that have something to say, in groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from gpustats.findings import Finding
from gpustats.report_words import p_value, place

Cluster: TypeAlias = Mapping[str, Any]
Peak: TypeAlias = Mapping[str, Any]
Write: TypeAlias = Callable[[Cluster, Peak, bool], str | None]
"""Writes a cell, given a cluster, one of its peaks, and whether that is the first."""


SHORT_NAMES = {
    "voxelwise": "voxel",
    "cluster_extent": "extent",
    "cluster_mass": "mass",
    "tfce": "TFCE",
}


LEVEL = " [95\N{NO-BREAK SPACE}%]"
"""What the head of a column says of the intervals in it."""


class Column(NamedTuple):
    """A column: the group that it is in, its head, and how its cells are written."""

    group: str
    head: str
    write: Write
    is_text: bool = False


class Row(NamedTuple):
    """A row: a peak, and where a click on it leads."""

    anchor: str
    name: str
    mm: Sequence[float]
    is_first: bool
    cells: list[tuple[str, bool]]


@dataclass(frozen=True)
class Table:
    """Hold a table that is ready to be written."""

    groups: list[tuple[str, int]]
    heads: list[tuple[str, bool]]
    rows: list[Row]


def clusters_table(finding: Finding) -> Table:
    """Return the table of a contrast's clusters."""
    rows = [
        (cluster, peak, number == 0)
        for cluster in finding.clusters
        for number, peak in enumerate(cluster["peaks"])
    ]
    written = []
    for column in _columns(finding):
        cells = [column.write(*row) for row in rows]
        if any(cell is not None for cell in cells):
            written.append((column, cells))
    groups: list[tuple[str, int]] = []
    for column, _ in written:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    return Table(
        groups,
        [(column.head, column.is_text) for column, _ in written],
        [
            Row(
                f"cluster-{peak['id']}",
                str(peak["id"]),
                peak["mm"],
                first,
                [(cells[number] or "", column.is_text) for column, cells in written],
            )
            for number, (_, peak, first) in enumerate(rows)
        ],
    )


def peaks_table(finding: Finding) -> Table:
    """Return the table of the highest peaks, of which none survives."""
    rows = [
        Row(f"peak-{number}", str(number), peak["mm"], True, [
            (place(peak["mm"]), False), (f"{peak['z']:.2f}", False),
        ])
        for number, peak in enumerate(finding.highest_peaks, start=1)
    ]  # fmt: skip
    return Table([("Peak", 2)], [("x, y, z (mm)", False), ("z", False)], rows)


def _columns(finding: Finding) -> list[Column]:
    """Return all columns that a table can have."""
    statistic = finding.statistic
    tests = [str(test["statistic"]) for test in finding.tests]
    atlases = dict.fromkeys(
        name for cluster in finding.clusters for name in cluster.get("atlas") or ()
    )
    return [
        Column("Peak", "x, y, z (mm)", lambda _, peak, __: place(peak["mm"])),
        Column("Peak", "z", _number("z", "{:.2f}")),
        Column("Peak", statistic, _number("statistic", "{:.2f}")),
        Column(
            "Peak",
            f"p ({finding.entry.get('p_of_peaks', 'one-sided').partition(',')[0]})",
            lambda _, peak, __: _or_none(peak.get("p"), p_value),
        ),
        Column("Peak", f"effect{LEVEL}", lambda _, peak, __: _effect(peak)),
        *(
            Column("Peak", f"{name}{LEVEL}", _effect_size(name))
            for name in _effect_sizes(finding.clusters)
        ),
        *(Column("Corrected p", SHORT_NAMES.get(name, name), _corrected(name)) for name in tests),
        Column("Cluster", "voxels", _of_cluster(lambda one: f"{one['n_voxels']:,}")),
        Column("Cluster", "mm³", _of_cluster(lambda one: f"{one['size_mm3']:,.0f}")),
        Column(
            "Cluster",
            "mass",
            _of_cluster(lambda one: _or_none(one.get("mass"), lambda mass: f"{mass:,.1f}")),
        ),
        Column("Cluster", "centre (mm)", _of_cluster(_centre)),
        Column("Active, at least", "parametric", _share("true_discovery_proportion")),
        Column("Active, at least", "permutation", _share("true_discovery_proportion_permutation")),
        *(Column("Atlas", name, _atlas(name), is_text=True) for name in atlases),
    ]


def _or_none(value: Any, write: Callable[[Any], str]) -> str | None:
    """Write a value if there is one."""
    return None if value is None else write(value)


def _number(key: str, form: str) -> Write:
    """Return what writes a number of a peak."""
    return lambda _, peak, __: _or_none(peak.get(key), form.format)


def _of_cluster(write: Callable[[Cluster], str | None]) -> Write:
    """Return what writes something of a cluster into its first row."""
    return lambda cluster, _, first: write(cluster) if first else None


def _share(key: str) -> Write:
    """Return what writes a share of a cluster's voxels."""
    return _of_cluster(lambda one: _or_none(one.get(key), lambda share: f"{100 * share:.0f} %"))


def _interval(value: float, interval: Sequence[float] | None) -> str:
    """Write an estimate with its interval."""
    limits = "" if interval is None else f" [{', '.join(map(_three_digits, interval))}]"
    return f"{_three_digits(value)}{limits}"


def _three_digits(value: float) -> str:
    """Write a number with three digits, zeros at its end included."""
    return f"{value:#.3g}".rstrip(".")


def _effect(peak: Peak) -> str | None:
    """Write the effect at a peak."""
    return _or_none(peak.get("effect"), lambda value: _interval(value, peak.get("effect_interval")))


def _effect_sizes(clusters: Sequence[Cluster]) -> dict[str, None]:
    """Return the names of the effect sizes in a table."""
    return dict.fromkeys(
        str(peak["effect_size"]["name"])
        for cluster in clusters
        for peak in cluster["peaks"]
        if peak.get("effect_size")
    )


def _effect_size(name: str) -> Write:
    """Return what writes an effect size of a name."""

    def write(_: Cluster, peak: Peak, __: bool) -> str | None:
        size = peak.get("effect_size")
        if not size or size["name"] != name:
            return None
        return _interval(size["value"], size.get("interval"))

    return write


def _corrected(name: str) -> Write:
    """Return what writes corrected p: the smallest of a cluster, or that of a further peak."""

    def write(cluster: Cluster, peak: Peak, first: bool) -> str | None:
        found = (cluster if first else peak).get("p_corrected") or {}
        return _or_none(found.get(name), p_value)

    return write


def _centre(cluster: Cluster) -> str | None:
    """Write the centre of mass, and whether it is outside."""
    if cluster.get("centre_of_mass_mm") is None:
        return None
    outside = "" if cluster.get("centre_of_mass_inside", True) else " (outside)"
    return place(cluster["centre_of_mass_mm"]) + outside


def _atlas(name: str) -> Write:
    """Return what writes the labels of an atlas: shares of a cluster, or that of a peak."""

    def write(cluster: Cluster, peak: Peak, first: bool) -> str | None:
        if not first:
            return (peak.get("atlas") or {}).get(name)
        shares = (cluster.get("atlas") or {}).get(name)
        return _or_none(shares, lambda of: ", ".join(f"{what} {100 * x:.0f} %" for what, x in of))

    return write
