"""What was done and found, in sentences that a paper can take over."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr

from gpustats.findings import ADJECTIVES, Finding
from gpustats.references import Citations

SCHEMES = {"freedman-lane": "Freedman and Lane", "dekker": "Dekker", "manly": "Manly"}


def count(number: int, what: str) -> str:
    """Return a number of things."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def place(mm: Sequence[float]) -> str:
    """Return a place as it is written in tables."""
    return signed(", ".join(f"{round(x, 1) + 0.0:.1f}" for x in mm))


def signed(number: str) -> str:
    """Write minus signs, not hyphens."""
    return number.replace("-", "\N{MINUS SIGN}")


def p_value(p: float) -> str:
    """Return a p value with up to three digits."""
    return f"{p:.3g}"


def _listed(words: Sequence[str]) -> str:
    """Join words by commas and a final "and"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def methods(content: Mapping[str, Any], findings: Sequence[Finding], cite: Citations) -> list[str]:
    """Say what was done, a paragraph for each string.

    Parameters
    ----------
    content
        The run's JSON.
    findings
        Its contrasts, at least one.
    cite
        Collects what is cited.
    """
    paragraphs = [" ".join([_model(content, findings[0], cite), *map(_test, findings)])]
    control = _permutation if findings[0].tests else _threshold
    paragraphs.append(control(content, findings[0], cite))
    extra = _extra(findings, cite)
    return [*paragraphs, extra] if extra else paragraphs


def _model(content: Mapping[str, Any], finding: Finding, cite: Citations) -> str:
    """Say which maps were analysed how."""
    data, grid = content.get("data", {}), finding.grid
    size = " \N{MULTIPLICATION SIGN} ".join(f"{side:.4g}" for side in grid.voxel_sizes_mm)
    n_maps = data.get("n_subjects")
    maps = "Maps" if n_maps is None else f"The maps of {count(n_maps, 'subject')}"
    columns = list(content.get("design") or ())
    if is_mean(content):
        model = ": the mean over subjects against 0"
    elif columns:
        model = f", with the {'regressor' if len(columns) == 1 else 'regressors'} "
        model += _listed(columns) if len(columns) <= 8 else f"{len(columns)} listed below"
    else:
        model = ""
    version = content["versions"].get("gpustats", "of unknown version")
    left = [f"{n:,} ({why})" for why, n in (data.get("dropped_voxels") or {}).items() if n]
    dropped = f" Voxels that were left out: {_listed(left)}." if left else ""
    return (
        f"{maps} ({count(grid.n_voxels, 'voxel')} of {size} mm each) were analysed with gpustats "
        f"{version} by ordinary least squares at every voxel {cite('summary_statistics')}{model}."
        f"{dropped}"
    )


def is_mean(content: Mapping[str, Any]) -> bool:
    """Tell whether the design is that of the one-sample test."""
    columns = list((content.get("design") or {}).values())
    return len(columns) == 1 and len(set(columns[0])) == 1


def _test(finding: Finding) -> str:
    """Say how a contrast was tested."""
    degrees = "degree" if finding.df == "1" else "degrees"
    name, df = f"The contrast “{finding.name}” was tested by", finding.df
    if finding.statistic == "F":
        return f"{name} an F test with {finding.entry['dimension']} and {df} degrees of freedom."
    sides = "two-sided" if finding.two_sided else "one-sided"
    kind = "one-sample t test" if is_mean(finding.record.content) else "t test"
    return f"{name} a {sides} {kind} with {df} {degrees} of freedom."


def _threshold(content: Mapping[str, Any], finding: Finding, cite: Citations) -> str:
    """Say which voxels count of a parametric test."""
    del content
    entry, alpha = finding.entry, finding.entry["alpha"]
    n_voxels = finding.grid.n_voxels
    match entry["height_control"]:
        case "fpr":
            by_chance = alpha * n_voxels
            number = f"{by_chance:,.0f}" if by_chance >= 10 else f"{by_chance:.2g}"
            control = (
                f"The threshold controls the false positive rate of each single voxel at {alpha:g},"
                f" uncorrected for their number: without any effect, about {number} of the "
                f"{n_voxels:,} voxels are expected to reach it by chance."
            )
        case "fdr":
            control = (
                f"The threshold controls the false discovery rate at {alpha:g} {cite('fdr')}: on "
                f"average, at most {100 * alpha:g} % of the voxels that reach it are false."
            )
        case "bonferroni":
            control = (
                f"The threshold controls the family-wise error rate at {alpha:g} (Bonferroni, "
                f"{n_voxels:,} tests): the probability that even one voxel reaches it by chance "
                f"is at most {100 * alpha:g} %."
            )
        case _:
            control = "The threshold was chosen by hand and controls no error rate."
    return f"{control} {_extent(entry)}"


def _extent(kept: Mapping[str, Any]) -> str:
    """Say which voxels form clusters, and how many they must be."""
    least = kept["cluster_threshold"]
    small = f"; those of fewer than {least:,} voxels were left out" if least > 1 else ""
    return f"Clusters are voxels that touch ({kept['connectivity']} neighbours){small}."


def _permutation(content: Mapping[str, Any], finding: Finding, cite: Citations) -> str:
    """Say how a permutation test was done."""
    test, entry = content.get("test", {}), finding.entry
    shuffled = entry["shuffles"]["description"]
    scheme = test.get("scheme", "")
    nuisance = ""
    if scheme in SCHEMES and _has_nuisance(content, finding):
        nuisance = f" Nuisance regressors were handled after {SCHEMES[scheme]} {cite(scheme)}."
    compared = [_statistic(settings, cite) for settings in _settings(test)]
    sigma_mm = test.get("variance_smoothing_mm")
    smoothed = (
        ""
        if sigma_mm is None
        else " The variance of t was smoothed, in every shuffle, by a Gaussian of "
        f"{sigma_mm:g} mm standard deviation (pseudo-t {cite('permutation')})."
    )
    alpha, first = entry["alpha"], finding.tests[0]["statistic"]
    corrected = f"{ADJECTIVES.get(first, first)} corrected p"
    return (
        f"Significance was assessed by permutation {cite('permutation', 'glm_permutation')}: "
        f"{shuffled}.{nuisance}{smoothed} Statistics: {'; '.join(compared) or first}. "
        "Corrected p values are shares of the shuffles, the observed data among them, whose "
        f"maximum over all voxels reaches the observed value {cite('never_zero')}, and so control "
        f"the family-wise error rate. Voxels count whose {corrected} is at most {alpha:g}. "
        f"{_extent(finding.kept)}"
    )


def _has_nuisance(content: Mapping[str, Any], finding: Finding) -> bool:
    """Tell whether the design has more than the contrast tests."""
    rows = np.array(list((content.get("design") or {}).values()))
    tested = np.linalg.matrix_rank(np.array(finding.entry["weights"]))
    return bool(rows.size and np.linalg.matrix_rank(rows) > tested)


def _settings(test: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the statistics of a test, which are listed as Python writes them, with settings."""
    found = []
    for words in test.get("statistics", ()):
        call = ast.parse(words, mode="eval").body
        if isinstance(call, ast.Call):
            options = {one.arg: ast.literal_eval(one.value) for one in call.keywords if one.arg}
            found.append((ast.unparse(call.func), options))
    return found


def _statistic(settings: tuple[str, dict[str, Any]], cite: Citations) -> str:
    """Say what a statistic of a permutation test is."""
    name, chosen = settings
    near = f"{chosen.get('connectivity')} neighbours"
    if name == "Tfce":
        step = f"steps of {chosen['step']:g}" if chosen.get("step") else "exact integral"
        return (
            f"threshold-free cluster enhancement {cite('tfce')} with E = {chosen['extent']:g}, "
            f"H = {chosen['height']:g}, {near}, {step if not chosen.get('levels') else 'in levels'}"
        )
    if name in ("ClusterExtent", "ClusterMass"):
        what, key = {
            "ClusterExtent": ("extent", "cluster_extent"),
            "ClusterMass": ("mass", "cluster_mass"),
        }[name]
        return f"the {what} of clusters {cite(key)} formed at {_forming(chosen)}, {near}"
    if name == "TrueDiscoveries":
        return f"the ranks of the p of voxels, which bound true discoveries {cite('post_hoc')}"
    return "the statistic of each voxel"


def _forming(chosen: Mapping[str, Any]) -> str:
    """Say where clusters were cut."""
    for unit, sign in (("t", "≥"), ("f", "≥"), ("z", "≥"), ("p", "≤")):
        if chosen.get(f"threshold_{unit}") is not None:
            return f"{'F' if unit == 'f' else unit} {sign} {chosen[f'threshold_{unit}']:g}"
    return "a threshold"


def _extra(findings: Sequence[Finding], cite: Citations) -> str:
    """Say how effect sizes and shares of active voxels in the tables were computed."""
    clusters = [cluster for finding in findings for cluster in finding.clusters]
    sentences = []
    sizes = {
        peak["effect_size"]["name"]
        for cluster in clusters
        for peak in cluster["peaks"]
        if peak.get("effect_size")
    }
    if sizes:
        named = [f"{one} {cite('hedges')}" if "Hedges" in one else one for one in sorted(sizes)]
        sentences.append(f"Effect sizes at peaks are {_listed(named)}.")
    if any(cluster.get("true_discovery_proportion") is not None for cluster in clusters):
        sentences.append(
            "The share of each cluster that is active, at least, is that of all-resolutions "
            f"inference {cite('true_discoveries')}."
        )
    if any("true_discovery_proportion_permutation" in cluster for cluster in clusters):
        sentences.append(
            f"The same share by permutation is a post hoc bound calibrated by the shuffles "
            f"{cite('post_hoc')}."
        )
    return " ".join(sentences)


def result(finding: Finding) -> str:
    """Say in a sentence or two what was found of a contrast."""
    limit, others = limit_of(finding), _others(finding)
    if not finding.shown.any():
        return f"No voxel survives ({limit}): none has an effect in the tested direction.{others}"
    height, where = signed(f"{finding.peak['z']:.2f}"), place(finding.peak["mm"])
    if not finding.n_surviving:
        return (
            f"No voxel survives ({limit}). The largest effect, not significant, is "
            f"z = {height} at ({where}) mm.{others}"
        )
    smallest = ""
    if finding.tests:
        p = finding.tests[0]["smallest_p_corrected"]["value"]
        smallest = f"; the smallest corrected p is {p_value(p)}"
    verb = "survives" if finding.n_surviving == 1 else "survive"
    return (
        f"{count(finding.n_surviving, 'voxel')} {verb} in {count(finding.n_clusters, 'cluster')} "
        f"({limit}); the largest peak is z = {height} at ({where}) mm"
        f"{smallest}.{others}"
    )


def _others(finding: Finding) -> str:
    """Say how many voxels survive by the statistics that say nothing about the clusters."""
    found = [
        f"{count(test['n_surviving_voxels'], 'voxel')} by {ADJECTIVES.get(name, name)} p"
        for test in finding.of_voxels[1:]
        for name in [test["statistic"]]
    ]
    return f" Besides, there survive {_listed(found)}." if found else ""


def limit_of(finding: Finding) -> str:
    """Say which limit the voxels of a contrast had to reach."""
    entry = finding.entry
    if finding.tests:
        first = finding.tests[0]["statistic"]
        return f"{ADJECTIVES.get(first, first)} corrected p ≤ {entry['alpha']:g}"
    sides = "|z|" if finding.two_sided else "z"
    p = float(ndtr(-entry["threshold_z"])) * (2 if finding.two_sided else 1)
    return f"{sides} ≥ {entry['threshold_z']:.2f}, p ≤ {p:.2g} at a single voxel"
