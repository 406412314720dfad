"""How other packages would do it: statistics by the conventions of FSL, PALM and others."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from gpustats.enhancements import ClusterExtent, ClusterMass, Statistic, Voxelwise
from gpustats.tfce import Tfce


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
    tfce_2d_connectivity: int | None = None
    """Neighbours in TFCE of skeletons and surfaces, where the package has settings for these."""
    of_z: bool = False
    """Whether clusters and TFCE look at the z of t, too."""
    times_step: bool = False
    """Whether TFCE multiplies its sum by the distance of the heights."""


CONVENTIONS = {
    "fsl": Conventions(26, 6, "full", "threshold_t", 100, False, 26),
    "palm": Conventions(26, 6, "full", "threshold_z", 100, True, 26, of_z=True, times_step=True),
    "nilearn": Conventions(6, 6, "above", "threshold_p", 100, True),
    "snpm": Conventions(18, 18, "above", "threshold_t", None, False),
    "mrtrix": Conventions(6, 6, "full", "threshold_t", None, False),
}
"""Defaults of FSL's randomise, PALM, nilearn, SnPM and MRtrix3."""


def compat(
    package: str,
    cluster_forming_threshold: float | None = None,
    *,
    statistic: Literal["t", "F"] = "t",
    tfce_2d: bool = False,
) -> tuple[Statistic, ...]:
    """Return the statistics of another package, with its conventions, for `permutation_test`.

    Parameters
    ----------
    package
        ``"fsl"``, ``"palm"``, ``"nilearn"``, ``"snpm"`` or ``"mrtrix"``.
    cluster_forming_threshold
        In the unit of that package: t or F for FSL, SnPM and MRtrix, z for PALM, p for nilearn.
        Without one there are no cluster statistics.
    statistic
        ``"t"`` or ``"F"``: what the contrasts are.
    tfce_2d
        Whether TFCE is that of FSL's ``--T2`` or PALM's ``-tfce2D``, for skeletons: H = 2,
        E = 1, and 26 neighbours.

    Returns
    -------
    tuple of Statistic
        `Voxelwise`, `Tfce` and, with a threshold, `ClusterExtent` and `ClusterMass`.

    Raises
    ------
    ValueError
        If the package is none of these or has no TFCE in 2D, or the threshold is not in its unit.

    Notes
    -----
    p-values follow this package's own rule whatever the conventions: rearrangements that are at
    least as extreme, the observed one included, over all. FSL and nilearn leave the distance of
    the heights out of the TFCE sum. FSL forms clusters of F on F itself and sums F to their mass,
    but enhances its z by TFCE. It leaves voxels at the border of the image without TFCE; here they
    have some. nilearn and PALM take new heights for every rearrangement: nilearn's scores differ
    in scale between them, PALM multiplies by the distance. PALM looks at z everywhere; where both
    tails count it looks at the size of z, so that effects of opposite sign may share a cluster:
    here tails are enhanced apart.

    Examples
    --------
    >>> [statistic.name for statistic in compat("fsl", 2.3)]
    ['voxelwise', 'tfce', 'cluster_extent', 'cluster_mass']
    """
    if package not in CONVENTIONS:
        raise ValueError(f"package must be one of {', '.join(CONVENTIONS)}, got {package!r}")
    rules = CONVENTIONS[package]
    if statistic not in ("t", "F"):
        raise ValueError(f"statistic must be 't' or 'F', got {statistic!r}")
    if tfce_2d and rules.tfce_2d_connectivity is None:
        raise ValueError(f"{package} has no settings of TFCE in 2D; FSL and PALM have")
    levels: dict[str, Any] = {
        "levels": rules.tfce_levels,
        "own_levels": rules.own_levels,
        "times_step": rules.times_step,
        "of_z": rules.of_z,
    }
    if tfce_2d and rules.tfce_2d_connectivity is not None:
        tfce = Tfce(extent=1, connectivity=rules.tfce_2d_connectivity, **levels)
    else:
        tfce = Tfce(connectivity=rules.tfce_connectivity, **levels)
    if cluster_forming_threshold is None:
        return Voxelwise(), tfce
    unit = rules.threshold
    if (unit, statistic) == ("threshold_t", "F"):
        unit = "threshold_f"
    forming: dict[str, Any] = {
        "connectivity": rules.cluster_connectivity,
        unit: cluster_forming_threshold,
        "of_z": rules.of_z,
    }
    return Voxelwise(), tfce, ClusterExtent(**forming), ClusterMass(**forming, mass=rules.mass)
