import threading
from itertools import chain, pairwise

import numpy as np
import pytest
import threadpoolctl
from forms import FORMS
from oracles import least_squares
from seam import Product

from gpustats.engines import SHUFFLE_TILE, Form, cpu, cpu_sweep
from gpustats.engines.cpu_threads import n_threads, one_blas_thread, share_out


@pytest.fixture
def product(engine, device):
    """The product of each engine."""
    return Product(engine, device)


def unit(values):
    """Scale the rows, in float64, to unit length and to float32 in the order of `Maps.values`."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asfortranarray(values / lengths, dtype=np.float32)


def random_rows(rng, n_rows, n):
    """A tile of shuffles, ``(192, k, n)``: one orthonormal set of rows, shuffled."""
    rows = np.linalg.qr(rng.normal(size=(n, n_rows)))[0].T
    return np.stack([rows[:, rng.permutation(n)] for _ in range(SHUFFLE_TILE)]).astype(np.float32)


PRODUCT_OF_CPU = Product(cpu, "cpu")


def rows_of(form):
    return form.n_tested + form.n_nuisance


@pytest.mark.parametrize("form", FORMS)
def test_a_shuffle_equals_the_refit_of_shuffled_residuals(product, rng, form):
    n, n_voxels = 18, 50
    tested = rng.normal(size=(n, form.n_tested))
    nuisance = rng.normal(1, 1, (n, form.n_nuisance))
    strength = rng.normal(0, 0.5, (n_voxels, form.n_tested))
    values = rng.normal(size=(n_voxels, n)) + strength @ tested.T + 5 * nuisance.sum(axis=1)
    basis = np.linalg.qr(nuisance)[0]
    residuals = values - values @ basis @ basis.T
    directions = np.linalg.qr(tested - basis @ basis.T @ tested)[0]
    orders = np.stack([np.arange(n), *(rng.permutation(n) for _ in range(SHUFFLE_TILE - 1))])
    rows = np.hstack([directions, basis]).T[:, np.argsort(orders)].transpose(1, 0, 2)
    design = np.hstack([tested, nuisance])
    contrast = np.eye(form.n_tested, rows_of(form))
    # an orthonormal direction has a sign of its own
    sign = np.sign(directions[:, 0] @ tested[:, 0]) if not form.is_f else 1
    maps = np.empty((SHUFFLE_TILE, n_voxels), np.float32)
    product.sweep(rows.astype(np.float32), product.pack(unit(residuals)), form, maps=maps)
    for order, found in zip(orders, maps, strict=True):
        shuffled = values - residuals + residuals[:, order]
        _, _, statistic, df = least_squares(shuffled, design, contrast)
        assert df == form.df
        if form.is_f and form.n_tested == 1:
            statistic = statistic**2  # the oracle has t of one row
        np.testing.assert_allclose(sign * found, statistic, rtol=1e-5, atol=1e-5)


def test_a_shuffle_of_one_sample_is_t_of_flipped_maps(product, rng):
    n = 12
    values = rng.normal(0, 1, (60, n)) + np.linspace(0, 4, 60)[:, None]
    signs = rng.choice([-1, 1], (SHUFFLE_TILE, n))
    signs[0] = 1
    rows = (signs / np.sqrt(n)).astype(np.float32)[:, None]
    maps = np.empty((SHUFFLE_TILE, 60), np.float32)
    product.sweep(rows, product.pack(unit(values)), Form(1, 0, n - 1, is_f=False), maps=maps)
    for flips, found in zip(signs, maps, strict=True):
        _, _, t, _ = least_squares(values * flips, np.ones((n, 1)), [1])
        np.testing.assert_allclose(found, t, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_peaks_are_the_extremes_of_the_maps(product, rng, form):
    units = product.pack(unit(rng.normal(size=(3000, 18))))
    rows = random_rows(rng, rows_of(form), 18)
    maps = np.empty((SHUFFLE_TILE, 3000), np.float32)
    peaks = product.sweep(rows, units, form, maps=maps)
    assert np.array_equal(product.statistic_of(peaks.upper, form), maps.max(axis=1))
    if not form.is_f:
        assert np.array_equal(product.statistic_of(peaks.lower, form), -maps.min(axis=1))


@pytest.mark.parametrize("n", [18, 700])
@pytest.mark.parametrize("form", FORMS)
def test_observed_values_are_those_of_shuffle_0(product, rng, form, n):
    units = product.pack(unit(rng.normal(size=(2100, n))))
    rows = random_rows(rng, rows_of(form), n)
    first = np.empty((1, 2100), np.float32)
    product.sweep(rows, units, form, shuffles=range(1), maps=first)
    observed = product.values_of(rows[0], units, form)
    assert np.array_equal(product.statistic_of(observed, form), first[0])


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize(("n_tested", "is_f"), [(1, False), (1, True), (2, True)])
def test_counts_of_exact_products(product, rng, n_tested, is_f, two_sided):
    # sums of few small multiples of 1/32 are exact in any order, so that ties abound
    unit_maps = rng.integers(-2, 3, (1500, 6)).astype(np.float32) / 8
    rows = rng.integers(-2, 3, (SHUFFLE_TILE, n_tested, 6)).astype(np.float32) / 4
    form, units = Form(n_tested, 0, 5, is_f), product.pack(unit_maps)
    exact = np.einsum("pkn,vn->kpv", rows, unit_maps)
    values = (exact**2).sum(axis=0) if is_f else exact[0]
    observed = product.values_of(rows[0], units, form)
    assert np.array_equal(observed, values[0])
    exceeding = product.exceedances(observed, form, two_sided=two_sided)
    peaks = product.sweep(rows, units, form, shuffles=range(5, 150), exceeding=exceeding)
    compared = np.abs(values) if two_sided else values
    assert np.array_equal(exceeding.counts, (compared >= compared[0])[5:150].sum(axis=0))
    assert np.array_equal(peaks.upper, values[5:150].max(axis=1))
    assert np.array_equal(peaks.lower, -values[5:150].min(axis=1))


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("form", [form for form in FORMS if form.n_nuisance])
def test_counts_of_freedman_and_lane(product, rng, form, two_sided):
    units = product.pack(unit(rng.normal(size=(1500, 18))))
    rows = random_rows(rng, rows_of(form), 18)
    exceeding = product.exceedances(
        product.values_of(rows[0], units, form), form, two_sided=two_sided
    )
    maps = np.empty((SHUFFLE_TILE, 1500), np.float32)
    for _ in range(2):
        product.sweep(rows, units, form, exceeding=exceeding, maps=maps)
    compared = np.abs(maps) if two_sided else maps
    tolerance = 1e-5 * np.maximum(np.abs(compared[0]), 1)
    np.testing.assert_allclose(compared[0] - exceeding.limits, tolerance, atol=1e-6)
    assert np.array_equal(exceeding.counts, 2 * (compared >= exceeding.limits).sum(axis=0))


@pytest.mark.parametrize("form", FORMS)
def test_the_observed_order_ties_with_itself_in_every_row(product, rng, form):
    n = 18
    units = product.pack(unit(rng.normal(size=(2000, n)) + rng.normal(0, 3, (2000, 1))))
    rows = np.repeat(random_rows(rng, rows_of(form), n)[:1], SHUFFLE_TILE, axis=0)
    observed = product.values_of(rows[0], units, form)
    for two_sided in (False, True):
        exceeding = product.exceedances(observed, form, two_sided=two_sided)
        mirrored = rows * np.where(np.arange(SHUFFLE_TILE) % 2, -1, 1)[:, None, None]
        product.sweep(
            (mirrored if two_sided else rows).astype(np.float32), units, form, exceeding=exceeding
        )
        assert (exceeding.counts == SHUFFLE_TILE).all()


@pytest.mark.parametrize("n", [20, 100, 500])
@pytest.mark.parametrize(
    "form",
    [
        Form(1, 0, 15, is_f=False),
        Form(1, 0, 15, is_f=True),
        Form(1, 4, 15, is_f=False),
        Form(2, 5, 13, is_f=True),
    ],
)
def test_a_shuffle_has_the_same_bits_in_any_company(rng, n, form):
    n_voxels = 2 * 1024 + 100
    values = unit(rng.normal(size=(n_voxels, n)))
    units, rows = PRODUCT_OF_CPU.pack(values), random_rows(rng, rows_of(form), n)
    observed = cpu_sweep.values_of(rows[0], units, form)
    whole = swept(rows, units, form, observed)

    for threads in (2, 3):
        for found, expected in zip(
            swept(rows, units, form, observed, threads=threads), whole, strict=True
        ):
            assert np.array_equal(found, expected)

    for cuts in ([0, 96, 192], [0, 1, 2, 37, 100, 192]):
        parts = [range(*cut) for cut in pairwise(cuts)]
        found = [swept(only(rows, part), units, form, observed, part) for part in parts]
        maps, counts, upper, lower = zip(*found, strict=True)
        assert np.array_equal(np.concatenate(maps), whole[0])
        assert np.array_equal(sum(counts), whole[1])
        assert np.array_equal(np.concatenate(upper), whole[2])
        assert np.array_equal(np.concatenate(lower), whole[3])

    others = rng.normal(0, 1e3, rows.shape).astype(np.float32)
    others[50] = rows[50]
    alone = swept(others, units, form, observed, range(50, 51))
    assert np.array_equal(alone[0][0], whole[0][50])

    rest = swept(rows, PRODUCT_OF_CPU.pack(values[1024:]), form, observed[1024:])
    assert np.array_equal(rest[0], whole[0][:, 1024:])
    assert np.array_equal(rest[1], whole[1][1024:])


def only(rows, part):
    """Zero the rows of all other shuffles."""
    kept = np.zeros_like(rows)
    kept[part.start : part.stop] = rows[part.start : part.stop]
    return kept


def swept(rows, units, form, observed, shuffles=range(SHUFFLE_TILE), threads=1):
    """Maps, counts, upper and lower peaks of some shuffles."""
    maps = np.empty((len(shuffles), units.n_voxels), np.float32)
    exceeding = cpu_sweep.exceedances(observed, form, two_sided=False)
    peaks = cpu_sweep.sweep(
        rows, units, form, shuffles=shuffles, exceeding=exceeding, maps=maps, threads=threads
    )
    return maps, exceeding.counts, *peaks


@pytest.mark.parametrize("n_voxels", [1, 2, 1023, 1024, 1025])
@pytest.mark.parametrize(
    "form",
    [
        Form(1, 0, 1, is_f=False),
        Form(1, 1, 1, is_f=False),
        Form(2, 0, 1, is_f=True),
        Form(1, 0, 1, is_f=True),
    ],
)
def test_padding_has_no_say(product, rng, n_voxels, form):
    # every value is negative, and every sum of squares exceeds that of a padded column
    rows = np.zeros((SHUFFLE_TILE, rows_of(form), 3), np.float32)
    rows[:, 0] = -1 / np.sqrt(3)
    rows[:, 1:] = np.array([1, -1, 0]) / np.sqrt(2)
    values = unit(1 + 0.1 * rng.uniform(size=(n_voxels, 3)))
    maps = np.empty((SHUFFLE_TILE, n_voxels), np.float32)
    units = product.pack(values)
    exceeding = product.exceedances(product.values_of(rows[0], units, form), form, two_sided=False)
    peaks = product.sweep(rows, units, form, exceeding=exceeding, maps=maps)
    assert np.array_equal(product.statistic_of(peaks.upper, form), maps.max(axis=1))
    assert (peaks.upper < 0).all() == (not form.is_f)
    assert (exceeding.counts == SHUFFLE_TILE).all()
    if form.is_f:
        assert (peaks.lower < 0).all()


@pytest.mark.parametrize("form", [form for form in FORMS if not form.is_f])
def test_negated_data_swap_the_tails(product, rng, form):
    values = unit(rng.normal(size=(1300, 18)))
    rows = random_rows(rng, rows_of(form), 18)
    results = []
    for sign in (1, -1):
        units = product.pack(sign * values)
        observed = product.values_of(rows[0], units, form)
        exceeding = product.exceedances(observed, form, two_sided=True)
        results.append((*product.sweep(rows, units, form, exceeding=exceeding), exceeding.counts))
    (upper, lower, counts), (negated_upper, negated_lower, negated_counts) = results
    assert np.array_equal(upper, negated_lower)
    assert np.array_equal(lower, negated_upper)
    assert np.array_equal(counts, negated_counts)


@pytest.mark.parametrize(
    "form",
    [
        Form(1, 0, 3, is_f=False),
        Form(2, 0, 3, is_f=True),
        Form(1, 1, 3, is_f=False),
        Form(2, 1, 3, is_f=True),
    ],
)
def test_a_voxel_that_is_explained_entirely_stays_finite(product, form):
    rows = np.zeros((SHUFFLE_TILE, rows_of(form), 4), np.float32)
    rows[:, range(rows_of(form)), range(rows_of(form))] = 1
    maps = np.empty((SHUFFLE_TILE, 4), np.float32)
    product.sweep(rows, product.pack(np.eye(4, dtype=np.float32)), form, maps=maps)
    assert np.isfinite(maps).all()
    assert (maps[:, 0] > 1e3).all()
    assert (maps[:, form.n_tested :] == 0).all()


@pytest.mark.parametrize("n_voxels", [1, 1023, 1024, 1500])
def test_units_are_residuals_of_unit_length_in_tiles(product, rng, n_voxels):
    values = np.asfortranarray(rng.normal(5, 1, (n_voxels, 9)).astype(np.float32))
    removed = np.linalg.qr(np.column_stack([np.ones(9), rng.normal(size=9)]))[0]
    units = product.unit_tiles(values, removed)
    residuals = values.astype(float) - values.astype(float) @ removed @ removed.T
    expected = product.pack(unit(residuals))
    assert units.n_voxels == n_voxels
    np.testing.assert_allclose(units.tiles, product.engine.to_host(expected.tiles), atol=1e-7)
    assert not units.tiles.transpose(0, 2, 1).reshape(-1, 9)[n_voxels:].any()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_task_is_done_once(threads):
    parts = share_out(list, 100, threads)
    assert len(parts) == threads
    assert sorted(chain(*parts)) == list(range(100))


def test_threads_work_at_the_same_time():
    meeting = threading.Barrier(2, timeout=10)

    def work(tasks):
        for _ in tasks:
            meeting.wait()

    share_out(work, 2, 2)
    assert n_threads() >= 1


def test_blas_is_kept_to_one_thread_for_a_while():
    def threads():
        return [
            library["num_threads"]
            for library in threadpoolctl.threadpool_info()
            if library["user_api"] == "blas"
        ]

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = threads()
        with one_blas_thread():
            assert set(threads()) <= {1}
        assert threads() == before
