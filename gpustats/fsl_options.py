"""The options of FSL's randomise, read as FSL reads them.

Short options may be put together and take their values from the words that follow (``-xn 500``);
long ones take theirs behind an equals sign (``--seed=5``); no option may come twice, and none may
be abbreviated.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gpustats.option_words import Option, neighbours, path, positive, root, whole


@dataclass(frozen=True)
class RandomiseOptions:
    """Hold what randomise is told; fields are named for what they mean, FSL's options for none.

    ``input``, ``output``, ``mask``, ``design``, ``contrasts``, ``f_tests`` and ``blocks`` are the
    files of ``-i -o -m -d -t -f -e``; `OPTIONS` says which field is which option's.
    """

    input: Path | None = None
    output: Path | None = None
    mask: Path | None = None
    design: Path | None = None
    contrasts: Path | None = None
    f_tests: Path | None = None
    blocks: Path | None = None
    one_sample: bool = False
    demean: bool = False
    n_permutations: int = 5000
    count_only: bool = False
    skip_to: int = 0
    f_only: bool = False
    permute_blocks: bool = False
    seed: int = 0
    voxelwise: bool = False
    tfce: bool = False
    tfce_2d: bool = False
    tfce_height: float | None = None
    tfce_extent: float | None = None
    tfce_connectivity: int | None = None
    tfce_step: float | None = None
    extent_t: float | None = None
    mass_t: float | None = None
    extent_f: float | None = None
    mass_f: float | None = None
    variance_smoothing_mm: float | None = None
    raw: bool = False
    uncorrected: bool = False
    permutation_files: bool = False
    null_files: bool = False
    glm_output: bool = False
    quiet: bool = False
    verbose: bool = False
    help: bool = False
    results: Path | None = None
    device: str = "auto"


OPTIONS = (
    Option("-i", "input", "<input>", path, "4D input image"),
    Option("-o", "output", "<out_root>", root, "what the names of all files begin with"),
    Option("-d", "design", "<design.mat>", path, "design matrix"),
    Option("-t", "contrasts", "<design.con>", path, "t contrasts"),
    Option("-f", "f_tests", "<design.fts>", path, "F tests, as sets of t contrasts"),
    Option("-e", "blocks", "<design.grp>", path, "exchangeability blocks"),
    Option("-m", "mask", "<mask>", path, "voxels to test; those that vary if absent"),
    Option("-1", "one_sample", "", None, "flip signs: test the mean, without -d and -t"),
    Option("-D", "demean", "", None, "take the mean out of data and design"),
    Option("-n", "n_permutations", "<n_perm>", whole, "permutations, 5000; 0 for all there are"),
    Option("-q", "count_only", "", None, "say how many permutations there are, and stop"),
    Option("--skipTo", "skip_to", "<number>", whole, "do only this test, F tests come first"),
    Option("--fonly", "f_only", "", None, "do the F tests only"),
    Option("--permuteBlocks", "permute_blocks", "", None, "exchange the blocks of -e as wholes"),
    Option("--seed", "seed", "<seed>", whole, "seed of the permutations, 0"),
    Option("-x", "voxelwise", "", None, "write corrected p of voxels"),
    Option("-T", "tfce", "", None, "threshold-free cluster enhancement"),
    Option("--T2", "tfce_2d", "", None, "the same for skeletons: H=2, E=1, C=26"),
    Option("--tfce_H", "tfce_height", "<H>", positive, "height exponent of TFCE, 2"),
    Option("--tfce_E", "tfce_extent", "<E>", positive, "extent exponent of TFCE, 0.5"),
    Option("--tfce_C", "tfce_connectivity", "<C>", neighbours, "neighbours of TFCE, 6"),
    Option("--tfce_D", "tfce_step", "<D>", positive, "distance of the heights of TFCE; max/100"),
    Option("-c", "extent_t", "<thresh>", positive, "extent of clusters of t"),
    Option("-C", "mass_t", "<thresh>", positive, "mass of clusters of t"),
    Option("-F", "extent_f", "<thresh>", positive, "extent of clusters of F"),
    Option("-S", "mass_f", "<thresh>", positive, "mass of clusters of F"),
    Option("-v", "variance_smoothing_mm", "<std>", positive, "smooth variances of t, sigma in mm"),
    Option("-R", "raw", "", None, "write what clusters and TFCE score, too"),
    Option("--uncorrp", "uncorrected", "", None, "write uncorrected p, too"),
    Option("-P", "permutation_files", "", None, "write the permutations as text"),
    Option("-N", "null_files", "", None, "write the null distributions as text"),
    Option("--glm_output", "glm_output", "", None, "write pe, cope, varcope and sigmasqr"),
    Option("--quiet", "quiet", "", None, "print errors and warnings only"),
    Option("-V", "verbose", "", None, "does nothing, as in randomise since 2.9"),
    Option("-h", "help", "", None, "print this"),
    Option("--help", "help", "", None, "print this"),
    Option(
        "--results", "results", "<folder>", path, "gpustats' own: clusters, p maps, result.json"
    ),
    Option("--device", "device", "<device>", str, "gpustats' own: auto, cpu, cuda, cuda:<index>"),
)

NOT_HERE = {
    "--vxl": "voxelwise regressors are not built",
    "--vxf": "voxelwise regressors are not built",
    "--twopass": "normalised cluster sizes are not built; TFCE (-T) needs no such correction",
    "--norcmask": "voxels that do not vary have no statistic",
    "--permout": "permuted maps are not written",
    "--film": "files in FEAT's style are not written",
    "--effective_design": "the design itself says which permutations differ",
    "--detectNull": "the design itself says which rows matter; give such rows blocks with -e",
    "--multi": "multivariate data are not built",
    "-U": "Freedman and Lane's way with nuisance is the only one",
    "-Q": "parts of a test are gpustats permute --shard, put together by gpustats merge",
    "--debug": "there is --help",
}
"""Options of randomise that are refused, and why."""

BY_WORD = {option.word: option for option in OPTIONS}


def parse(words: Sequence[str]) -> RandomiseOptions:
    """Read the words of a command line as FSL does.

    Parameters
    ----------
    words
        What follows the name of the command.

    Returns
    -------
    RandomiseOptions
        Every option, by what it means.

    Raises
    ------
    ValueError
        If an option is unknown, refused, comes twice, or has no value or a wrong one.

    Examples
    --------
    >>> found = parse(["-i", "con.nii.gz", "-o", "out", "-1xn", "500", "--tfce_H=2"])
    >>> found.one_sample, found.voxelwise, found.n_permutations, found.tfce_height
    (True, True, 500, 2.0)
    """
    found: dict[str, Any] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            _take(found, name, value if equals else None)
        elif len(word) > 1 and word[0] == "-":
            for letter in word[1:]:
                option = _option(f"-{letter}", word)
                wants = option.convert is not None
                _take(found, option.word, left.pop(0) if wants and left else None)
        else:
            raise ValueError(f"{word!r} is no option; files come behind theirs, like -i {word}")
    return RandomiseOptions(**found)


def _option(name: str, word: str) -> Option:
    """Return an option by its name, or say why it is not there."""
    if name in NOT_HERE:
        raise ValueError(f"{name} of randomise is refused: {NOT_HERE[name]}")
    if name not in BY_WORD:
        part = f" (in {word!r})" if word.partition("=")[0] != name else ""
        meant = "; did you mean --T2?" if word == "-T2" else ""
        raise ValueError(f"randomise has no option {name}{part}{meant}; see --help")
    return BY_WORD[name]


def _take(found: dict[str, Any], name: str, value: str | None) -> None:
    """Take an option and its value."""
    option = _option(name, name)
    if option.field in found:
        raise ValueError(f"{name} came twice")
    if option.convert is None:
        if value is not None:
            raise ValueError(f"{name} takes no value, got {value!r}")
        found[option.field] = True
        return
    if value is None or not value:
        form = f"{name}={option.metavar}" if name.startswith("--") else f"{name} {option.metavar}"
        raise ValueError(f"{name} takes a value: {form}")
    try:
        found[option.field] = option.convert(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}, got {value!r}") from error


def usage() -> str:
    """Return what ``--help`` prints."""
    lines = [
        "usage: gpustats randomise -i <input> -o <out_root> -d <design.mat> -t <design.con> ...",
        "",
        "A drop-in for FSL's randomise: its options, its files, its conventions.",
        "",
    ]
    for option in OPTIONS:
        if option.word != "-h":
            joint = "=" if option.word.startswith("--") and option.metavar else " "
            written = f"{option.word}{joint}{option.metavar}".strip()
            lines.append(f"  {written:<24}{option.help}")
    refused = textwrap.fill(f"Refused, each with its reason: {', '.join(NOT_HERE)}.", 100)
    return "\n".join([*lines, "", refused, ""])


def as_written(options: RandomiseOptions) -> dict[str, Any]:
    """Return every option by its name, as a JSON keeps it."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}
