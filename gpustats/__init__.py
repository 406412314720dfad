"""Group statistics of brain maps at the speed of the hardware."""

import logging

from gpustats.archives import load_inference, save_inference
from gpustats.atlases import Atlas, load_atlas
from gpustats.checkpoints import remove_checkpoint
from gpustats.cohort import Cohort
from gpustats.cohort_stacking import stack_maps
from gpustats.contrast_maps import ContrastMaps
from gpustats.contrasts import Contrast, DesignError
from gpustats.design import Design
from gpustats.engines import DeviceError
from gpustats.enhancements import ClusterExtent, ClusterMass, Voxelwise
from gpustats.extra_maps import ExtraMaps
from gpustats.fits import Fit
from gpustats.glm import fit
from gpustats.inference import permutation_test
from gpustats.maps import Maps, load_maps
from gpustats.merging import merge
from gpustats.model_outputs import save_glm_to_bids
from gpustats.nonparametric import non_parametric_inference
from gpustats.outcomes import Inference
from gpustats.permutation_outputs import save_maps
from gpustats.presets import compat
from gpustats.report import Report, make_glm_report, view_img
from gpustats.second_level import SecondLevelModel, make_second_level_design_matrix
from gpustats.significance import fdr_q, log10_p
from gpustats.simes import TrueDiscoveries
from gpustats.spaces import Grid
from gpustats.tables import get_clusters_table
from gpustats.tfce import Tfce
from gpustats.thresholding import map_threshold, threshold_stats_img
from gpustats.true_discoveries import cluster_level_inference, permutation_true_discoveries

__version__ = "0.1.0"

# what the package says is heard where the program that imports it wants to
logging.getLogger("gpustats").addHandler(logging.NullHandler())

__all__ = [
    "Atlas",
    "ClusterExtent",
    "ClusterMass",
    "Cohort",
    "Contrast",
    "ContrastMaps",
    "Design",
    "DesignError",
    "DeviceError",
    "ExtraMaps",
    "Fit",
    "Grid",
    "Inference",
    "Maps",
    "Report",
    "SecondLevelModel",
    "Tfce",
    "TrueDiscoveries",
    "Voxelwise",
    "__version__",
    "cluster_level_inference",
    "compat",
    "fdr_q",
    "fit",
    "get_clusters_table",
    "load_atlas",
    "load_inference",
    "load_maps",
    "log10_p",
    "make_glm_report",
    "make_second_level_design_matrix",
    "map_threshold",
    "merge",
    "non_parametric_inference",
    "permutation_test",
    "permutation_true_discoveries",
    "remove_checkpoint",
    "save_glm_to_bids",
    "save_inference",
    "save_maps",
    "stack_maps",
    "threshold_stats_img",
    "view_img",
]
