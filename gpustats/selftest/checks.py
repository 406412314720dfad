"""All checks of the self-test."""

from __future__ import annotations

from gpustats.selftest.checks_of_clusters import cluster_checks, tfce_checks
from gpustats.selftest.checks_of_fits import fit_checks
from gpustats.selftest.checks_of_ranks import rank_checks
from gpustats.selftest.checks_of_shuffles import shuffle_checks
from gpustats.selftest.checks_of_smoothing import smoothing_checks
from gpustats.selftest.checks_of_tests import permutation_checks
from gpustats.selftest.promises import Check


def all_checks() -> tuple[Check, ...]:
    """Return the checks in the order in which a test uses what they check."""
    return (
        *fit_checks(),
        *shuffle_checks(),
        *cluster_checks(),
        *tfce_checks(),
        *rank_checks(),
        *smoothing_checks(),
        *permutation_checks(),
    )
