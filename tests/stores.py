"""Stores of cohorts to test with."""

from simulate import make_maps, volumes_of

from gpustats import stack_maps
from gpustats.engines import SHUFFLE_TILE
from gpustats.memory import Load

THREE_CHUNKS = (22, 24, 20)
"""Of volumes whose mask takes three chunks of 1,024 voxels."""


def make_store(rng, path, n_subjects=12):
    """Stack noise in three chunks of voxels."""
    maps = make_maps(rng, n_subjects, THREE_CHUNKS)
    assert 2048 < maps.n_voxels < 3072
    return stack_maps(volumes_of(maps), maps.grid, path)


def memory_for(cohort, n_tiles, n_maps=0, **of_load):
    """Return the memory that makes blocks of so many tiles of 1,024 voxels, beside some maps."""
    load = Load(cohort.n_voxels, cohort.n_subjects, **{"rank": 3, **of_load})
    per_voxel = 8 * cohort.n_subjects + (4 * SHUFFLE_TILE if load.spatial else 0)
    # two tiles of shuffles beside the block, and what fitting it takes
    held = 2 * load.tile_bytes + 4 * cohort.n_subjects * 1024
    return load.fixed_bytes + held + n_tiles * 1024 * per_voxel + 4 * cohort.n_voxels * n_maps


def stack(files, maps, path, **options):
    return stack_maps(files, maps.grid, path, **{"subjects_per_shard": 4, **options})


def contents(path):
    """Every file of a store."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}
