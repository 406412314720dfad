"""Shuffles drawn on the GPU against those of the host, which have tests of their own."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from planted import Bug, caught
from test_philox import KNOWN_ANSWERS

from gpustats import philox
from gpustats.design import Design
from gpustats.engines import SHUFFLE_TILE, cpu_shuffles
from gpustats.exchangeability import Exchangeability
from gpustats.partition import partition, projection
from gpustats.shuffles import Shuffles

FRONTS = ["source", "ptx"]
EDGES = [2, 3, 7, 31, 32, 33, 63, 64, 65, 70]  # of words, warps and their halves
BEYOND_32_BITS = 2**32 + 5

front = pytest.mark.parametrize("front", FRONTS)


@pytest.fixture
def gpu(cuda):
    """The module under test, on the emulator."""
    del cuda  # it comes first: the module imports cupy
    from gpustats.engines import gpu_shuffles

    return gpu_shuffles


def at_random(n, errors, **options):
    """Shuffles of n subjects, few enough to be drawn at random."""
    shuffles = Shuffles(n, errors, 2**40, seed=2**33 + n, **options)
    return Shuffles(n, errors, min(2**40, shuffles.n_distinct - 1), seed=2**33 + n, **options)


def in_blocks(n_blocks, size, errors, block_exchange):
    """Shuffles of blocks whose subjects are scattered."""
    blocks = np.random.default_rng(size).permutation(np.arange(n_blocks * size) % n_blocks)
    return at_random(n_blocks * size, errors, blocks=blocks, block_exchange=block_exchange)


UNEQUAL = np.array([4, -1, 4, 4, 9, -1, 4, 2, 9, 9, 9, 9, 4])
PLANS = {
    **{f"flips of {n}": at_random(n, "ise") for n in EDGES},
    **{f"permutations of {n}": at_random(n, "ee") for n in EDGES},
    **{f"both of {n}": at_random(n, "both") for n in EDGES},
    "within unequal blocks": at_random(13, "ee", blocks=UNEQUAL),
    "both within unequal blocks": at_random(13, "both", blocks=UNEQUAL),
    "flips of unequal blocks": at_random(13, "ise", blocks=UNEQUAL, block_exchange="whole"),
    "flips of unequal blocks, both": at_random(13, "ise", blocks=UNEQUAL, block_exchange="both"),
    **{
        f"{n_blocks} blocks of {size}, {errors}, {moved}": in_blocks(n_blocks, size, errors, moved)
        for n_blocks, size in [(3, 2), (4, 1), (33, 2), (2, 33)]
        for errors, moved in product(["ee", "both"], ["within", "whole", "both"])
        if moved != "within" or size > 1
    },
}
EXHAUSTIVE = {
    "flips": Shuffles(6, "ise"),
    "two groups": Shuffles(6, "ee", design=np.repeat(np.eye(2), 3, axis=0)),
    "both": Shuffles(4, "both"),
    "blocks": Shuffles(6, "both", blocks=np.arange(6) // 2, block_exchange="both"),
}


def ranges(plan):
    """The first shuffles, some in the middle, and the last."""
    n = plan.n_shuffles
    return [range(min(n, 4)), range(n // 2, min(n // 2 + 3, n)), range(max(0, n - 2), n)]


def check_draws(gpu, plan):
    """Compare what the device draws with what the host draws."""
    assert not plan.exhaustive
    for indices in ranges(plan):
        for drawn, expected in zip(gpu.draw(plan, indices), plan.draw(indices), strict=True):
            assert drawn.dtype == expected.dtype
            np.testing.assert_array_equal(drawn.get(), expected)


def check_rows(gpu, plan, columns, indices):
    """Compare tiles bit for bit."""
    tile = gpu.shuffled_rows(plan, columns, indices)
    expected = cpu_shuffles.shuffled_rows(plan, columns, indices)
    assert tile.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(tile.get().view(np.uint32), expected.view(np.uint32))


def check_order(gpu, keys, sampling):
    """Compare the order of keys with the stable argsort of each set."""
    import cupy

    expected = np.empty((len(keys), sampling.places.size), np.int32)
    for start in np.unique(sampling.set_start):
        units = sampling.places[sampling.set_start[sampling.places] == start]
        # each set lists its units in ascending order, so a stable argsort keeps ties in order
        expected[:, units] = units[np.argsort(keys[:, units], axis=1, kind="stable")]
    np.testing.assert_array_equal(gpu.order(cupy.asarray(keys), sampling).get(), expected)


@front
def test_known_answers_of_philox(cuda, front):
    import cupy

    from gpustats.cuda import Kernels
    from gpustats.sources import kernel_folder

    kernel = """
        extern "C" __global__ void answers(const uint4* counters, const uint4* keys, uint4* words)
        {
            const uint4 key = keys[threadIdx.x];
            words[threadIdx.x] = philox(counters[threadIdx.x], make_uint2(key.x, key.y));
        }"""
    counters, keys, expected = (
        np.array(column, np.uint32) for column in zip(*KNOWN_ANSWERS, strict=True)
    )
    keys = np.pad(keys, ((0, 0), (0, 2)))
    words = cupy.empty((3, 4), dtype=np.uint32)
    with cuda.executed(front=front):
        kernels = Kernels((kernel_folder() / "philox.cuh").read_text() + kernel)
        kernels.launch("answers", 1, 3, cupy.asarray(counters), cupy.asarray(keys), words)
    np.testing.assert_array_equal(words.get(), expected)


@front
@pytest.mark.parametrize("seed", [0, 7, BEYOND_32_BITS, 2**64 - 1])
@pytest.mark.parametrize("start", [0, 2**32 - 1, BEYOND_32_BITS, 2**40 - 2])
def test_words_are_those_of_the_host(cuda, gpu, front, seed, start):
    indices = range(start, start + 3)
    numbers = np.array(indices, np.uint64)
    with cuda.executed(front=front):
        for stream, n_words in product((0, 1), (1, 4, 5, 1029)):
            words = gpu.random_words(seed, indices, stream, n_words).get()
            expected = philox.random_words(seed, numbers, stream, n_words)
            np.testing.assert_array_equal(words[:, :n_words], expected)
            assert words.shape[1] == -(-n_words // 4) * 4


KEYS = {
    "uniform": lambda rng, shape: rng.integers(0, 2**64, shape, np.uint64),
    "all equal": lambda _, shape: np.full(shape, 2**63 + 1, np.uint64),
    "largest": lambda _, shape: np.full(shape, 2**64 - 1, np.uint64),
    "many ties": lambda rng, shape: rng.integers(0, 5, shape, np.uint64) << np.uint64(61),
    "one bucket": lambda rng, shape: rng.integers(0, 2**32, shape, np.uint64),
    "ascending": lambda _, shape: np.cumsum(np.full(shape, 2**64 // shape[1], np.uint64), axis=1),
    "descending": lambda _, shape: -np.cumsum(np.full(shape, 2**52, np.uint64), axis=1),
}
SETS = {
    **{f"one of {n}": Exchangeability(n, "ee") for n in [2, 31, 32, 33, 255, 256, 257, 600]},
    "unequal": Exchangeability(13, "ee", blocks=UNEQUAL),
    "300 pairs": Exchangeability(600, "ee", blocks=np.arange(600) % 300),
    "blocks and subjects": Exchangeability(
        66, "ee", blocks=np.arange(66) % 22, block_exchange="both"
    ),
}


@front
@pytest.mark.parametrize("sets", SETS)
def test_keys_are_ordered_in_every_set(cuda, gpu, rng, front, sets):
    sampling = SETS[sets].sampling
    with cuda.executed(front=front):
        for keys, spare in product(KEYS.values(), (0, 1)):
            shape = (2, sampling.places.size + spare)
            check_order(gpu, keys(rng, shape), sampling)


@front
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_draws_are_those_of_the_host(cuda, gpu, front, plan):
    with cuda.executed(front=front):
        check_draws(gpu, plan)


def test_one_subject(gpu):
    check_rows(gpu, Shuffles(1, "ise"), np.array([[2.0]]), range(2))


@pytest.mark.parametrize("errors", ["ise", "ee", "both"])
def test_many_subjects(gpu, rng, errors):
    check_rows(gpu, at_random(2000, errors), rng.normal(size=(2, 2000)), range(190, 192))


@front
@pytest.mark.parametrize("plan", EXHAUSTIVE.values(), ids=EXHAUSTIVE.keys())
def test_exhaustive_shuffles_are_gathered(cuda, gpu, rng, front, plan):
    assert plan.exhaustive
    columns = rng.normal(size=(3, plan.n_subjects))
    with cuda.executed(front=front):
        check_rows(gpu, plan, columns, range(min(plan.n_shuffles, SHUFFLE_TILE)))


@front
@pytest.mark.parametrize(
    "indices",
    [range(192), range(192, 193), range(383, 384), range(200, 384), range(2**35, 2**35 + 9)],
)
@pytest.mark.parametrize("n_columns", [1, 2, 5])
def test_rows_have_their_place_in_a_tile(cuda, gpu, rng, front, indices, n_columns):
    plan = at_random(33, "both", blocks=np.arange(33) % 11, block_exchange="both")
    with cuda.executed(front=front):
        check_rows(gpu, plan, rng.normal(size=(n_columns, 33)), indices)


@front
def test_every_value_keeps_its_bits(cuda, gpu, front):
    values = [0.0, -0.0, 1e-40, -1e-45, 1e-300, 3.4e38, 1 / 3, -1 - 2**-24, 1.0, 2.0]
    with cuda.executed(front=front):
        check_rows(gpu, at_random(10, "both"), np.array([values]), range(192))


@pytest.mark.parametrize("scheme", ["freedman-lane", "manly"])
@pytest.mark.parametrize("errors", ["ise", "ee", "both"])
def test_rows_are_those_of_the_projection(gpu, rng, scheme, errors):
    design = Design(pd.DataFrame(rng.normal(size=(20, 4)), columns=list("abcd")))
    parts = partition(design, design.contrast("a"))
    plan = Shuffles(20, errors, design=design.matrix, seed=4)
    rule = projection(parts, scheme, plan.unmoved)
    expected = np.zeros((SHUFFLE_TILE, rule.n_rows, 20), np.float32)
    expected[8:50] = rule.rows(plan, range(200, 242))
    tile = gpu.shuffled_rows(plan, rule.columns, range(200, 242))
    np.testing.assert_array_equal(tile.get(), expected)


def test_nothing_waits_for_the_device(gpu, monkeypatch):
    import cupy

    monkeypatch.setattr(cupy.ndarray, "get", lambda _: pytest.fail("waited"))
    for plan in (PLANS["33 blocks of 2, both, both"], EXHAUSTIVE["flips"]):
        gpu.shuffled_rows(plan, np.ones((2, plan.n_subjects)), range(3))


CROWDED = {"many ties", "one bucket", "uniform"}


def check_all(gpu, n=70):
    """One small call of each kernel, with what a bug would get wrong."""
    rng = np.random.default_rng(1)
    blocks = np.arange(n) % 7
    within = at_random(n, "both", blocks=blocks)
    for name in CROWDED:
        check_order(gpu, KEYS[name](rng, (2, n)), within.sampling)
    check_rows(gpu, within, rng.normal(size=(2, n)), range(2**33, 2**33 + 2))
    for moved in ("whole", "both"):
        plan = at_random(n, "both", blocks=blocks, block_exchange=moved)
        check_rows(gpu, plan, rng.normal(size=(1, n)), range(2))


@pytest.mark.parametrize("seed", range(20))
def test_any_schedule_gives_the_same(cuda, gpu, seed):
    with cuda.executed(seed=seed):
        check_all(gpu)


@front
@pytest.mark.parametrize("n", [70, 280])
def test_no_race_and_nothing_out_of_bounds(cuda, gpu, front, n):
    with cuda.executed(front=front, mode="check", seed=1):
        check_all(gpu, n)


BUGS = [
    Bug("shuffles", "round < 10", "round < 9", "rounds"),
    Bug("shuffles", "(unsigned)(index >> 32)", "0u", "indices beyond 2^32"),
    Bug("shuffles", "(unsigned)(seed >> 32)", "0u", "seeds beyond 2^32"),
    Bug("shuffles", "keys[other] == key && other < u", "false", "ties"),
    Bug("shuffles", "keys[other] < key ||", "keys[other] >> 32 < key >> 32 ||", "low words"),
    Bug("shuffles", "before += total;", "", "carry of the sum"),
    Bug("shuffles", "n_units > n_blocks ?", "n_units < n_blocks ?", "subjects of moved blocks"),
    Bug("shuffles", "place % block_size", "0", "place in the block"),
    Bug("shuffles", "word >> unit % 32", "word >> (31 - unit % 32)", "order of the bits"),
    Bug("shuffles", "first_row + blockIdx.y", "blockIdx.y", "place in the tile"),
]
MISBEHAVING = [
    Bug("shuffles", "before + sum - count", "before + sum", "inclusive sum"),
    Bug("shuffles", "1)] = u;\n    __syncthreads();", "1)] = u;", "ranked before all are dealt"),
    Bug("shuffles", "ends[b] = 0;\n    __syncthreads();", "ends[b] = 0;", "counts not yet 0"),
    Bug("shuffles", "__syncthreads();  // before", "// before", "sums of the warps"),
    Bug("shuffles", "if (place >= n_subjects) return;", "", "no guard"),
]


@pytest.mark.parametrize(
    ("bug", "mode"), [*product(BUGS, ["fast"]), *product(MISBEHAVING, ["check"])]
)
def test_planted_bugs_are_caught(cuda, gpu, bug, mode, monkeypatch):
    def check():
        with cuda.executed(mode=mode, seed=1):
            check_all(gpu, 280)

    check()
    assert caught(bug, check, monkeypatch), bug.why
