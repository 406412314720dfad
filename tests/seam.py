"""The permutation product of either engine, called with NumPy arrays."""

import numpy as np

from gpustats.engines import SHUFFLE_TILE, Exceedances, Peaks, Units, cpu_sweep


class Product:
    """Call an engine's functions on the host's arrays, and fetch what they find."""

    def __init__(self, engine, device):
        self.engine = engine
        if device == "cpu":
            self.width = cpu_sweep.VOXEL_TILE
        else:
            from gpustats.engines import gpu_sweep

            self.width = gpu_sweep.VOXEL_TILE

    def pack(self, values):
        """Lay out maps as they are, ``(n_voxels, n)``, in tiles."""
        n_voxels, n = values.shape
        padded = np.zeros((-(-n_voxels // self.width) * self.width, n), np.float32)
        padded[:n_voxels] = values
        tiles = padded.reshape(-1, self.width, n).transpose(0, 2, 1)
        return Units(self.engine.to_device(np.ascontiguousarray(tiles)), n_voxels)

    def unit_tiles(self, values, removed):
        units = self.engine.unit_tiles(values, removed)
        return units._replace(tiles=self.engine.to_host(units.tiles))

    def values_of(self, rows, units, form):
        return self.engine.values_of(self.engine.to_device(rows), units, form)

    def exceedances(self, observed, form, *, two_sided):
        """Limits and counts on the host; `sweep` carries the counts there and back."""
        limits, _, counts = self.engine.exceedances(observed, form, two_sided=two_sided)
        on_host = (np.array(self.engine.to_host(each)) for each in (limits, counts))
        return Exceedances(next(on_host), two_sided, next(on_host))

    def statistic_of(self, values, form):
        return self.engine.statistic_of(values, form)

    def sweep(self, rows, units, form, *, shuffles=range(SHUFFLE_TILE), exceeding=None, maps=None):
        to_device, to_host = self.engine.to_device, self.engine.to_host
        counting = None
        if exceeding is not None:
            limits, two_sided, counts = exceeding
            counting = Exceedances(to_device(limits), two_sided, to_device(counts))
        filled = None if maps is None else to_device(maps)
        peaks = self.engine.sweep(
            to_device(rows), units, form, shuffles=shuffles, exceeding=counting, maps=filled
        )
        if exceeding is not None:
            exceeding.counts[:] = to_host(counting.counts)
        if maps is not None:
            maps[:] = to_host(filled)
        return Peaks(*map(to_host, peaks))
