"""Checks of the observed maps: transfers, least squares, t and F to z."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gpustats.selftest import plain
from gpustats.selftest.promises import EQUAL, Arrays, Check, Machine, Promise
from gpustats.selftest.sample import Sample

SUMS = Promise(1e-12)
"""Sums of a few float64, in any order."""
RATIOS = Promise(1e-11)
"""What is formed of such sums."""
Z = Promise(1e-9, relative=False)
"""The promise of `gpustats.distributions`."""
ROUNDED_Z = Promise(1e-6)
"""The same, rounded to float32."""

DF = 19.0
"""Degrees of freedom of the t and F that are turned into z."""
DIMENSION = 3
"""Numerator degrees of freedom of these F."""
WEIGHTS = np.array([1.0, -1.0, 0.0, 0.0])
"""The difference of the groups."""


def fit_checks() -> Iterator[Check]:
    """Return the checks of what makes the observed maps."""
    yield Check("to_device and to_host", _there_and_back, _as_they_are, EQUAL, EQUAL)
    yield Check("empty_maps", _empty_maps, _empty_maps_plain, EQUAL, EQUAL)
    yield Check("negate", _negate, _negate_plain, EQUAL, EQUAL)
    yield Check("put", _put, _put_plain, EQUAL, EQUAL)
    yield Check("regress", _regress, _regress_plain, SUMS, SUMS)
    yield Check("contrast", _contrast, _contrast_plain, RATIOS, RATIOS)
    yield Check("t_to_z", _t_to_z, _t_to_z_plain, Z, Z, (DF, 8.0))
    yield Check("t_to_z, many subjects", _t_to_z, _t_to_z_plain, Z, Z, (1e5, 30.0))
    yield Check("t_to_z, far tail", _t_to_z, _t_to_z_plain, Z, Z, (1.0, 1e150))
    yield Check("f_to_z", _f_to_z, _f_to_z_plain, Z, Z)
    yield Check("t_maps_to_z", _t_maps_to_z, _t_maps_to_z_plain, ROUNDED_Z, ROUNDED_Z)
    yield Check("f_maps_to_z", _f_maps_to_z, _f_to_z_plain, ROUNDED_Z, ROUNDED_Z)


def _there_and_back(machine: Machine, sample: Sample) -> Arrays:
    """Move arrays to the device and back."""
    engine = machine.engine
    return tuple(engine.to_host(engine.to_device(array)) for array in _as_they_are(sample))


def _as_they_are(sample: Sample) -> Arrays:
    """Return arrays of the types and orders that cross the seam."""
    return sample.maps, sample.values, np.arange(7), sample.design.basis, sample.maps > 0


def _empty_maps(machine: Machine, sample: Sample) -> Arrays:
    """Fill room for maps."""
    room = machine.engine.empty_maps(5, sample.grid.n_voxels)
    room[...] = machine.engine.to_device(sample.maps[:5])
    return (machine.engine.to_host(room),)


def _empty_maps_plain(sample: Sample) -> Arrays:
    """Return what fills the room."""
    return (sample.maps[:5],)


def _negate(machine: Machine, sample: Sample) -> Arrays:
    """Turn maps over."""
    maps = machine.engine.to_device(sample.maps.copy())
    machine.engine.negate(maps)
    return (machine.engine.to_host(maps),)


def _negate_plain(sample: Sample) -> Arrays:
    """Turn maps over."""
    return (-sample.maps,)


def _put(machine: Machine, sample: Sample) -> Arrays:
    """Write the front of maps into their middle."""
    maps = machine.engine.to_device(sample.maps.copy())
    machine.engine.put(machine.engine.to_device(sample.maps[:, :9].copy()), maps, 11)
    return (machine.engine.to_host(maps),)


def _put_plain(sample: Sample) -> Arrays:
    """Write the front of maps into their middle."""
    return (np.hstack([sample.maps[:, :11], sample.maps[:, :9], sample.maps[:, 20:]]),)


def _regress(machine: Machine, sample: Sample) -> Arrays:
    """Fit the design to maps far from zero."""
    regression = machine.engine.regress(sample.values, sample.design.basis)
    return tuple(machine.engine.to_host(array) for array in regression)


def _regress_plain(sample: Sample) -> Arrays:
    """Fit the design to maps far from zero."""
    return plain.regression(sample.values, sample.design.basis)


def _contrast(machine: Machine, sample: Sample) -> Arrays:
    """Test the difference of the groups."""
    regression = machine.engine.regress(sample.values, sample.design.basis)
    estimator = sample.design.estimator(sample.design.contrast(WEIGHTS))
    return machine.engine.contrast(regression, estimator[0], sample.design.df)


def _contrast_plain(sample: Sample) -> Arrays:
    """Test the difference of the groups."""
    return plain.contrast(sample.values, sample.design.matrix, WEIGHTS)


def _t_to_z(machine: Machine, sample: Sample, df: float, largest: float) -> Arrays:
    """Turn t of both signs into z."""
    return (machine.engine.t_to_z(_t(sample, largest), df),)


def _t_to_z_plain(sample: Sample, df: float, largest: float) -> Arrays:
    """Turn t of both signs into z."""
    return (plain.t_to_z(_t(sample, largest), df),)


def _t(sample: Sample, largest: float) -> NDArray[np.float64]:
    """Return t from tiny ones to the largest, evenly in their logarithm, ``(2, 1001)``."""
    exponents = sample.rng(3).uniform(-6, np.log10(largest), 1000)
    sizes = np.append(10**exponents, 0.0)
    return np.stack([sizes, -sizes])


def _t_maps_to_z(machine: Machine, sample: Sample) -> Arrays:
    """Turn maps of t into z, in place."""
    maps = machine.engine.to_device(_t(sample, 8.0).astype(np.float32))
    machine.engine.t_maps_to_z(maps, DF)
    return (machine.engine.to_host(maps),)


def _t_maps_to_z_plain(sample: Sample) -> Arrays:
    """Turn t as float32 holds them into z."""
    return (plain.t_to_z(_t(sample, 8.0).astype(np.float32).astype(np.float64), DF),)


def _f_to_z(machine: Machine, sample: Sample) -> Arrays:
    """Turn F into z."""
    return (machine.engine.f_to_z(_f(sample), DIMENSION, DF),)


def _f_maps_to_z(machine: Machine, sample: Sample) -> Arrays:
    """Turn maps of F into z, in place."""
    maps = machine.engine.to_device(_f(sample).astype(np.float32))
    machine.engine.f_maps_to_z(maps, DIMENSION, DF)
    return (machine.engine.to_host(maps),)


def _f_to_z_plain(sample: Sample) -> Arrays:
    """Turn F into z."""
    return (plain.f_to_z(_f(sample), DIMENSION, DF),)


def _f(sample: Sample) -> NDArray[np.float64]:
    """Return F as float32 holds them, from small to large, ``(3, 501)``."""
    exponents = sample.rng(4).uniform(-3, 2, (3, 501))
    return (10**exponents).astype(np.float32).astype(np.float64)
