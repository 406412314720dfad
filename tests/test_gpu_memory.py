"""Arrays that pass through the device arrive whole, whenever streams do what they were told."""

import numpy as np
import pytest

from gpustats.engines import SHUFFLE_TILE, Form

pytestmark = pytest.mark.usefixtures("cuda")

SEEDS = range(24)
FORM = Form(1, 1, 3, is_f=False)


@pytest.fixture
def passed_through(monkeypatch, rng):
    """Compute everything for which blocks pass through the device, with buffers of 128 voxels."""
    import cupy

    from gpustats.engines import gpu_glm, gpu_memory, gpu_sweep

    monkeypatch.setattr(gpu_memory, "STAGING_BYTES", 1)
    monkeypatch.setattr(gpu_memory, "RESIDENT_SHARE", 0)
    for module in (gpu_glm, gpu_sweep):
        monkeypatch.setattr(module, "VOXEL_TILE", 256)
    values = np.asfortranarray(rng.normal(size=(1100, 5)), dtype=np.float32)
    basis = np.linalg.qr(rng.normal(size=(5, 2)))[0]
    rows = np.repeat(basis.T[None], SHUFFLE_TILE, axis=0).astype(np.float32)

    def compute():
        regression = gpu_glm.regress(values, basis)
        units = gpu_glm.unit_tiles(values, basis[:, 1:])
        observed = gpu_sweep.values_of(cupy.asarray(rows[0]), units, FORM)
        peaks = gpu_sweep.sweep(cupy.asarray(rows), units, FORM, shuffles=range(3))
        on_device = [array.get() for array in (*regression, *peaks)]
        return [*on_device, units.tiles.copy(), observed]

    return compute


def same(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_blocks_arrive_whole_in_any_order_of_the_streams(cuda, passed_through):
    expected = passed_through()
    for seed in SEEDS:
        with cuda.asynchronous(seed):
            assert same(passed_through(), expected)


@pytest.mark.parametrize("left_out", ["the host", "the copying stream", "the computing stream"])
def test_nobody_could_leave_out_to_wait(cuda, passed_through, monkeypatch, left_out):
    import cupy

    if not cuda.is_emulated:
        pytest.skip("a GPU seldom shows what is missing")
    expected = passed_through()
    wait_event = cupy.cuda.Stream.wait_event

    def wait_on_the_other(stream, event):
        if stream.is_non_blocking != (left_out == "the copying stream"):
            wait_event(stream, event)

    if left_out == "the host":
        monkeypatch.setattr(cupy.cuda.Event, "synchronize", lambda _: None)
    else:
        monkeypatch.setattr(cupy.cuda.Stream, "wait_event", wait_on_the_other)

    def is_whole(seed):
        with cuda.asynchronous(seed):
            return same(passed_through(), expected)

    assert not all(is_whole(seed) for seed in SEEDS)


@pytest.mark.parametrize("n_voxels", [1, 2, 128, 130, 1030])
@pytest.mark.parametrize("n", [1, 7])
def test_blocks_are_padded_with_zeros(rng, monkeypatch, n_voxels, n):
    from gpustats.engines import gpu_memory

    monkeypatch.setattr(gpu_memory, "STAGING_BYTES", 4 * 7 * 256)
    monkeypatch.setattr(gpu_memory, "PIECE_BYTES", 512)
    values = np.asfortranarray(rng.normal(size=(n_voxels, n)), dtype=np.float32)
    reached = 0
    for block, data in gpu_memory.voxel_blocks(values, most=512):
        assert block.start == reached
        assert block.start // 512 == (block.stop - 1) // 512
        assert data.shape == (n, -(-len(block) // 4) * 4)
        assert np.array_equal(data.get()[:, : len(block)], values[block.start : block.stop].T)
        assert not data.get()[:, len(block) :].any()
        reached = block.stop
    assert reached == n_voxels


def test_a_loop_that_ends_early_leaves_no_copy_behind(monkeypatch, rng):
    import cupy

    from gpustats.engines import gpu_memory

    waited = []
    monkeypatch.setattr(gpu_memory, "STAGING_BYTES", 1)
    monkeypatch.setattr(cupy.cuda.Stream, "synchronize", lambda stream: waited.append(stream))
    blocks = gpu_memory.voxel_blocks(np.asfortranarray(rng.normal(size=(600, 2)), np.float32))
    next(blocks)
    assert not waited
    blocks.close()
    assert len(waited) == 1
