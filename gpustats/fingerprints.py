"""What tells results of one run from those of another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np

from gpustats.contrasts import Contrast
from gpustats.environment import versions
from gpustats.fits import Fit


def fingerprint(
    fitted: Fit,
    contrasts: Iterable[Contrast],
    settings: Mapping[str, Any],
    blocks: Any,
    block_exchange: str,
) -> dict[str, str]:
    """Return what must be equal in results that are merged.

    Parameters
    ----------
    fitted
        The data, their mask and the design.
    contrasts
        What is tested.
    settings
        What the test was told.
    blocks, block_exchange
        Which subjects are exchangeable.

    Returns
    -------
    dict
        A short word for each of: data, design, contrasts, settings, blocks, version, engine.
    """
    grid = fitted.maps.grid
    weights = [(one.name, one.statistic, one.weights.tolist()) for one in contrasts]
    return {
        "data": _digest(fitted.maps.digest(), np.packbits(grid.mask), grid.affine),
        "design": _digest(fitted.design.matrix),
        "contrasts": _digest(repr(weights)),
        "settings": _digest(repr(sorted((k, v) for k, v in settings.items() if k != "engine"))),
        "blocks": "none" if blocks is None else _digest(np.asarray(blocks), block_exchange),
        "version": versions()["gpustats"],
        "engine": fitted.engine.fingerprint(),
    }


def _digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits of arrays and texts."""
    digest = blake2b(digest_size=8)
    for part in parts:
        content = part.encode() if isinstance(part, str) else np.ascontiguousarray(part).data
        digest.update(content)
    return digest.hexdigest()
