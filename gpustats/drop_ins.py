"""What drop-ins for other packages' commands share: reading data, and gpustats' own results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gpustats import images
from gpustats.archives import save_inference
from gpustats.bids import write_dataset_description, write_sidecars
from gpustats.cli_report import report_name
from gpustats.fsl_model import image_path
from gpustats.maps import Maps, load_maps
from gpustats.outcomes import Inference
from gpustats.outputs import write_json
from gpustats.permutation_outputs import write_inference
from gpustats.records import RESULT
from gpustats.spaces import Grid
from gpustats.thresholding import ThresholdRule

RULE = ThresholdRule(0.05, None, None, 0, two_sided=False, connectivity=26)
"""Which voxels count in ``--results``: p <= 0.05; their neighbours are those of FSL and PALM."""


def read_maps(
    source: Path, mask: Path | None, is_in: Callable[[NDArray[Any]], NDArray[Any]], which: str
) -> Maps:
    """Read a 4D image inside a mask.

    Parameters
    ----------
    source
        The image.
    mask
        Its mask, perhaps without an ending; None for all voxels that vary.
    is_in
        Tells which values of the mask are in it.
    which
        The same in words, for an empty mask.

    Raises
    ------
    ValueError
        If the mask is empty, or does not fit.
    OSError
        If a file cannot be read.
    """
    if mask is None:
        return load_maps(source)
    path = image_path(mask)
    volume, affine = images.read_map(path, "mask")
    grid = Grid(is_in(volume), affine)
    if grid.n_voxels == 0:
        raise ValueError(f"{path}: the mask is empty; no voxel is {which}")
    return load_maps(source, grid)


def write_results(
    folder: Path, results: Path, inference: Inference, summary: dict[str, Any]
) -> dict[str, Any]:
    """Write what ``gpustats permute`` would, but for the report; return what its JSON holds.

    Parameters
    ----------
    folder
        Where to; it exists.
    results
        Where they will be.
    inference
        What was found.
    summary
        The JSON of the command; what it says of the run is taken over.
    """
    save_inference(inference, folder / "inference.npz")
    run = {name: value for name, value in summary.items() if name not in ("contrasts", "files")}
    two_sided = any(outcome.two_sided for outcome in inference.outcomes)
    contrasts = write_inference(folder, inference, replace(RULE, two_sided=two_sided))
    write_sidecars(folder, contrasts, [run["data"]["input"]])
    write_dataset_description(folder, results, f"gpustats {run['command']}: a permutation test")
    content = {
        **run,
        "test": dict(inference.settings),
        "fingerprint": dict(inference.fingerprint),
        "p": "two-sided" if two_sided else "one-sided",
        "p_outside_mask": 1,
        "contrasts": contrasts,
        "report": report_name(),
    }
    write_json(folder / RESULT, content)
    return content


@contextmanager
def said_when_interrupted() -> Iterator[None]:
    """Say that nothing is left of a run that is interrupted.

    Raises
    ------
    KeyboardInterrupt
        With these words, if one comes.
    """
    try:
        yield
    except KeyboardInterrupt as interruption:
        done = str(interruption) or "interrupted"
        raise type(interruption)(f"{done}; no results were written") from None
