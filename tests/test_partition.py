import numpy as np
import pandas as pd
import pytest
from oracles import least_squares

from gpustats import Design
from gpustats.partition import partition, projection
from gpustats.shuffles import Shuffles

N = 14


def design(rng):
    """Two groups, an age, and a redundant constant."""
    group = np.repeat([1.0, 0.0], N // 2)
    return Design(
        pd.DataFrame(
            {"a": group, "b": 1 - group, "age": rng.normal(40, 9, N), "intercept": np.ones(N)}
        )
    )


@pytest.mark.parametrize("expression", ["a - b", "age", "a + intercept", "a - b; age"])
def test_the_partition_spans_the_design(rng, expression):
    x = design(rng)
    contrast = x.contrast(expression)
    parts = partition(x, contrast)
    both = np.column_stack([parts.tested, parts.nuisance])
    np.testing.assert_allclose(both.T @ both, np.eye(x.rank), atol=1e-12)
    np.testing.assert_allclose(both @ (both.T @ x.matrix), x.matrix, atol=1e-9)
    # the nuisance is the model under the null hypothesis
    coefficients = np.linalg.pinv(x.matrix) @ parts.nuisance
    np.testing.assert_allclose(contrast.weights @ coefficients, 0, atol=1e-10)


@pytest.mark.parametrize("expression", ["a - b", "age", "a + intercept", "a - b; age"])
@pytest.mark.parametrize("scheme", ["freedman-lane", "dekker", "manly"])
def test_the_identity_gives_the_least_squares_statistic(rng, expression, scheme):
    x = design(rng)
    parts = partition(x, x.contrast(expression))
    y = rng.normal(size=(N, 5))
    plan = Shuffles(N, "ee", 50, x.matrix)
    rule = projection(parts, scheme, plan.unmoved)
    residuals = y - rule.removed @ (rule.removed.T @ y)
    unit = residuals / np.linalg.norm(residuals, axis=0)
    products = rule.rows(plan, range(1))[0] @ unit
    explained = (products[: rule.n_tested] ** 2).sum(0)
    left = 1 - (products**2).sum(0)
    f = explained / rule.n_tested / (left / rule.df)
    *_, statistic, _ = least_squares(y.T, x.matrix, x.contrast(expression).weights)
    expected = statistic**2 if rule.n_tested == 1 else statistic
    np.testing.assert_allclose(f, expected, rtol=1e-4)
    if rule.n_tested == 1:
        assert np.array_equal(np.sign(products[0]), np.sign(statistic))


@pytest.mark.parametrize(
    ("columns", "expression", "mean"),
    [
        (["one"], "one", True),
        (["one", "age"], "one", True),
        (["one", "age"], "age", False),
        (["a", "b"], "a - b", False),
        (["a", "b"], "a", True),
        (["a", "b"], "a; b", True),
        (["age"], "age", False),
    ],
)
def test_a_mean_is_tested_where_permuting_would_leave_it(rng, columns, expression, mean):
    group = np.repeat([1.0, 0.0], N // 2)
    table = pd.DataFrame({"one": np.ones(N), "a": group, "b": 1 - group, "age": rng.normal(size=N)})
    x = Design(table[columns])
    assert partition(x, x.contrast(expression)).tests_the_mean is mean


def test_nuisance_that_no_shuffle_moves_costs_no_rows(rng):
    x = design(rng)
    parts = partition(x, x.contrast("a - b"))
    assert parts.nuisance.shape[1] == 2
    plain = projection(parts, "freedman-lane", Shuffles(N, "ee", 50, x.matrix).unmoved)
    assert plain.n_rows == 2  # the tested row and age; the constant stays where it is
    flipped = projection(parts, "freedman-lane", Shuffles(N, "ise", 50, x.matrix).unmoved)
    assert flipped.n_rows == 3
    assert projection(parts, "dekker", np.empty((N, 0))).n_rows == 1


def test_subjects_of_a_paired_design_cost_no_rows():
    pairs = np.repeat(np.arange(N // 2), 2)
    subjects = (pairs[:, None] == np.arange(N // 2)).astype(float)
    table = pd.DataFrame(subjects, columns=[f"s{k}" for k in range(N // 2)])
    table.insert(0, "condition", np.tile([1.0, -1.0], N // 2))
    x = Design(table)
    plan = Shuffles(N, "ee", 200, x.matrix, pairs)
    rule = projection(partition(x, x.contrast("condition")), "freedman-lane", plan.unmoved)
    assert rule.n_rows == 1
    assert plan.n_distinct == 2 ** (N // 2)


def test_schemes_have_names(rng):
    x = design(rng)
    with pytest.raises(ValueError, match="scheme must be one of freedman-lane, dekker, manly"):
        projection(partition(x, x.contrast("age")), "smith", np.empty((N, 0)))
