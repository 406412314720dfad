"""The papers that a report names, and the order in which it does."""

from __future__ import annotations

from typing import NamedTuple


class Reference(NamedTuple):
    """A paper: how it is cited, and where it is found."""

    cited: str
    text: str
    doi: str

    @property
    def url(self) -> str:
        """Its address, which a reader may follow."""
        return f"https://doi.org/{self.doi}"


REFERENCES = {
    "summary_statistics": Reference(
        "Holmes & Friston, 1998",
        "Holmes AP, Friston KJ (1998). Generalisability, random effects and population inference. "
        "NeuroImage 7, S754.",
        "10.1016/S1053-8119(18)31587-8",
    ),
    "permutation": Reference(
        "Nichols & Holmes, 2002",
        "Nichols TE, Holmes AP (2002). Nonparametric permutation tests for functional "
        "neuroimaging: a primer with examples. Human Brain Mapping 15, 1-25.",
        "10.1002/hbm.1058",
    ),
    "glm_permutation": Reference(
        "Winkler et al., 2014",
        "Winkler AM, Ridgway GR, Webster MA, Smith SM, Nichols TE (2014). Permutation inference "
        "for the general linear model. NeuroImage 92, 381-397.",
        "10.1016/j.neuroimage.2014.01.060",
    ),
    "never_zero": Reference(
        "Phipson & Smyth, 2010",
        "Phipson B, Smyth GK (2010). Permutation p-values should never be zero. Statistical "
        "Applications in Genetics and Molecular Biology 9, 39.",
        "10.2202/1544-6115.1585",
    ),
    "freedman-lane": Reference(
        "Freedman & Lane, 1983",
        "Freedman D, Lane D (1983). A nonstochastic interpretation of reported significance "
        "levels. Journal of Business & Economic Statistics 1, 292-298.",
        "10.1080/07350015.1983.10509354",
    ),
    "dekker": Reference(
        "Dekker et al., 2007",
        "Dekker D, Krackhardt D, Snijders TAB (2007). Sensitivity of MRQAP tests to collinearity "
        "and autocorrelation conditions. Psychometrika 72, 563-581.",
        "10.1007/s11336-007-9016-1",
    ),
    "post_hoc": Reference(
        "Blanchard et al., 2020",
        "Blanchard G, Neuvial P, Roquain E (2020). Post hoc confidence bounds on false positives "
        "using reference families. The Annals of Statistics 48, 1281-1303.",
        "10.1214/19-AOS1847",
    ),
    "manly": Reference(
        "Manly, 1986",
        "Manly BFJ (1986). Randomization and regression methods for testing for associations "
        "with geographical, environmental and biological distances between populations. "
        "Researches on Population Ecology 28, 201-218.",
        "10.1007/BF02515450",
    ),
    "tfce": Reference(
        "Smith & Nichols, 2009",
        "Smith SM, Nichols TE (2009). Threshold-free cluster enhancement: addressing problems of "
        "smoothing, threshold dependence and localisation in cluster inference. NeuroImage 44, "
        "83-98.",
        "10.1016/j.neuroimage.2008.03.061",
    ),
    "cluster_extent": Reference(
        "Friston et al., 1994",
        "Friston KJ, Worsley KJ, Frackowiak RSJ, Mazziotta JC, Evans AC (1994). Assessing the "
        "significance of focal activations using their spatial extent. Human Brain Mapping 1, "
        "210-220.",
        "10.1002/hbm.460010306",
    ),
    "cluster_mass": Reference(
        "Bullmore et al., 1999",
        "Bullmore ET, Suckling J, Overmeyer S, Rabe-Hesketh S, Taylor E, Brammer MJ (1999). "
        "Global, voxel, and cluster tests, by theory and permutation, for a difference between "
        "two groups of structural MR images of the brain. IEEE Transactions on Medical Imaging "
        "18, 32-42.",
        "10.1109/42.750253",
    ),
    "fdr": Reference(
        "Benjamini & Hochberg, 1995",
        "Benjamini Y, Hochberg Y (1995). Controlling the false discovery rate: a practical and "
        "powerful approach to multiple testing. Journal of the Royal Statistical Society B 57, "
        "289-300.",
        "10.1111/j.2517-6161.1995.tb02031.x",
    ),
    "true_discoveries": Reference(
        "Rosenblatt et al., 2018",
        "Rosenblatt JD, Finos L, Weeda WD, Solari A, Goeman JJ (2018). All-Resolutions Inference "
        "for brain imaging. NeuroImage 181, 786-796.",
        "10.1016/j.neuroimage.2018.07.060",
    ),
    "hedges": Reference(
        "Hedges, 1981",
        "Hedges LV (1981). Distribution theory for Glass's estimator of effect size and related "
        "estimators. Journal of Educational Statistics 6, 107-128.",
        "10.3102/10769986006002107",
    ),
}


class Citations:
    """Cite papers, and remember which."""

    def __init__(self) -> None:
        self.used: list[Reference] = []

    def __call__(self, *keys: str) -> str:
        """Return papers as a text cites them, in parentheses."""
        papers = [REFERENCES[key] for key in keys]
        self.used += [paper for paper in papers if paper not in self.used]
        return f"({'; '.join(paper.cited for paper in papers)})"

    @property
    def listed(self) -> list[Reference]:
        """The papers that were cited, in the order of the alphabet."""
        return sorted(self.used, key=lambda paper: paper.text)
