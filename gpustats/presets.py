"""How other packages would do it: statistics by the conventions of FSL, PALM and others."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from gpustats.enhancements import ClusterExtent, ClusterMass, Statistic, Tfce, Voxelwise


class Conventions(NamedTuple):
    """What a package does unless it is told otherwise."""

    cluster_connectivity: int
    """Neighbours of a voxel in a cluster."""
    tfce_connectivity: int
    """Neighbours of a voxel in TFCE."""
    mass: Literal["full", "above"]
    """What a voxel adds to the mass of its cluster."""
    threshold: str
    """Unit of the cluster-forming threshold."""
    tfce_levels: int | None
    """Heights that TFCE sums up to a maximum; None integrates exactly."""
    own_levels: bool
    """Whether that is the maximum of every shuffle rather than the observed one."""


CONVENTIONS = {
    "fsl": Conventions(26, 6, "full", "threshold_t", 100, False),
    "palm": Conventions(26, 6, "full", "threshold_z", 100, False),
    "nilearn": Conventions(6, 6, "above", "threshold_p", 100, True),
    "snpm": Conventions(18, 18, "above", "threshold_t", None, False),
    "mrtrix": Conventions(6, 6, "full", "threshold_t", None, False),
}
"""Defaults of FSL's randomise, PALM, nilearn, SnPM and MRtrix3."""


def compat(package: str, cluster_forming_threshold: float | None = None) -> tuple[Statistic, ...]:
    """Return the statistics of another package, with its conventions, for `permutation_test`.

    Parameters
    ----------
    package
        ``"fsl"``, ``"palm"``, ``"nilearn"``, ``"snpm"`` or ``"mrtrix"``.
    cluster_forming_threshold
        In the unit of that package: t for FSL, SnPM and MRtrix, z for PALM, p for nilearn.
        Without one there are no cluster statistics.

    Returns
    -------
    tuple of Statistic
        `Voxelwise`, `Tfce` and, with a threshold, `ClusterExtent` and `ClusterMass`.

    Raises
    ------
    ValueError
        If the package is none of these, or the threshold is not in its unit.

    Notes
    -----
    p-values follow this package's own rule whatever the conventions: rearrangements that are at
    least as extreme, the observed one included, over all. FSL and nilearn leave the distance of
    the heights out of the TFCE sum. nilearn takes new heights for every rearrangement, so that
    its scores differ in scale between them; so do PALM's, which multiplies by the distance: its
    scores here have the heights of the observed map.

    Examples
    --------
    >>> [statistic.name for statistic in compat("fsl", 2.3)]
    ['voxelwise', 'tfce', 'cluster_extent', 'cluster_mass']
    """
    if package not in CONVENTIONS:
        raise ValueError(f"package must be one of {', '.join(CONVENTIONS)}, got {package!r}")
    rules = CONVENTIONS[package]
    tfce = Tfce(
        connectivity=rules.tfce_connectivity,
        levels=rules.tfce_levels,
        own_levels=rules.own_levels,
    )
    if cluster_forming_threshold is None:
        return Voxelwise(), tfce
    forming: dict[str, Any] = {
        "connectivity": rules.cluster_connectivity,
        rules.threshold: cluster_forming_threshold,
    }
    return Voxelwise(), tfce, ClusterExtent(**forming), ClusterMass(**forming, mass=rules.mass)
