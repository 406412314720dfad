"""The options of PALM, read as PALM reads them.

Every option is a word of its own, its values are the words behind it. Where PALM takes the last of
two equal options, and where it would take an option for a value, this is refused.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from gpustats.option_words import Option, neighbours, path, positive, root, whole

Scheme = Literal["freedman-lane", "dekker", "manly"]
Accelerated = Literal["tail", "gamma"]


@dataclass(frozen=True)
class PalmOptions:
    """Hold what PALM is told; `OPTIONS` says which field is which option's."""

    input: Path | None = None
    output: Path = Path("palm")
    mask: Path | None = None
    reverse_mask: bool = False
    design: Path | None = None
    contrasts: Path | None = None
    f_tests: Path | None = None
    t_only: bool = False
    f_only: bool = False
    first_number: int = 0
    blocks: Path | None = None
    within: bool = False
    whole: bool = False
    variance_groups: str | None = None
    permute: bool = False
    flip: bool = False
    n_permutations: int = 10_000
    seed: int | None = 0
    two_tailed: bool = False
    demean: bool = False
    scheme: Scheme = "freedman-lane"
    partition_of_fit: str | None = None
    partition_of_permutations: str | None = None
    tfce: bool = False
    tfce_1d: bool = False
    tfce_2d: bool = False
    tfce_height: float | None = None
    tfce_extent: float | None = None
    tfce_connectivity: int | None = None
    tfce_step: float | None = None
    cluster_z: float | None = None
    cluster_statistic: Literal["extent", "mass"] = "extent"
    over_contrasts: bool = False
    fdr: bool = False
    accelerate: Accelerated | None = None
    z_statistic: bool = False
    one_minus_p: bool = False
    log_p: bool = False
    without_uncorrected: bool = False
    parametric: bool = False
    degrees_of_freedom: bool = False
    save_mask: bool = False
    save_glm: bool = False
    verbose_names: bool = False
    quiet: bool = False
    help: bool = False
    results: Path | None = None
    device: str = "auto"

    @property
    def errors(self) -> Literal["ee", "ise", "both"]:
        """What is shuffled: rows, unless signs are asked for."""
        if self.flip:
            return "both" if self.permute else "ise"
        return "ee"


def _one_of(*words: str) -> Any:
    """Read one of some words, in any letters."""

    def convert(word: str) -> str:
        if word.lower() not in words:
            raise ValueError(f"needs one of {', '.join(words)} here")
        return word.lower()

    return convert


def _seed(word: str) -> int | None:
    """Read a seed; None for one of chance."""
    if word.lower() in ("twist", "shuffle", "reset"):
        return None
    value = whole(word)
    if value > 2**32:
        raise ValueError("needs a number up to 2^32, or the word twist")
    return value


def _step(word: str) -> float | None:
    """Read the distance of heights; None for a hundredth of the highest."""
    return None if word.lower() in ("auto", "0") else positive(word)


OPTIONS = (
    Option("-i", "input", "<file>", path, "4D input image"),
    Option("-m", "mask", "<file>", path, "voxels to test; those that vary if absent"),
    Option("-reversemasks", "reverse_mask", "", None, "test the voxels that are 0 in the mask"),
    Option("-d", "design", "<file>", path, "design matrix, csv or vest; a mean if absent"),
    Option("-t", "contrasts", "<file>", path, "t contrasts, csv or vest"),
    Option("-f", "f_tests", "<file>", path, "F tests, as sets of t contrasts, csv or vest"),
    Option("-tonly", "t_only", "", None, "do the t contrasts only"),
    Option("-fonly", "f_only", "", None, "do the F tests only"),
    Option("-conskipcount", "first_number", "<integer>", whole, "added to numbers of contrasts"),
    Option("-o", "output", "<string>", root, "what the names of all files begin with, palm"),
    Option("-n", "n_permutations", "<integer>", whole, "shufflings, 10000; 0 for all there are"),
    Option("-eb", "blocks", "<file>", path, "exchangeability blocks, csv or vest"),
    Option("-within", "within", "", None, "shuffle within blocks"),
    Option("-whole", "whole", "", None, "shuffle blocks as wholes"),
    Option("-ee", "permute", "", None, "permute, which is the default"),
    Option("-ise", "flip", "", None, "flip signs; with -ee both"),
    Option("-vg", "variance_groups", "<file>", str, "variance groups; there may be one"),
    Option("-twotail", "two_tailed", "", None, "two-tailed tests of t contrasts"),
    Option("-demean", "demean", "", None, "take the mean out of data and design"),
    Option("-rmethod", "scheme", "<method>", _one_of(*get_args(Scheme)), "freedman-lane"),
    Option(
        "-pmethodr",
        "partition_of_fit",
        "<method>",
        _one_of("beckmann", "ridgway"),
        "beckmann, which is also what ridgway does",
    ),
    Option(
        "-pmethodp",
        "partition_of_permutations",
        "<method>",
        _one_of("beckmann", "ridgway", "guttman", "none"),
        "does nothing: the whole design tells shufflings apart",
    ),
    Option("-C", "cluster_z", "<real>", positive, "clusters of z above this"),
    Option("-Cuni", "cluster_z", "<real>", positive, "the same"),
    Option("-Cstat", "cluster_statistic", "<name>", _one_of("extent", "mass"), "extent, or mass"),
    Option("-T", "tfce", "", None, "threshold-free cluster enhancement"),
    Option("-Tuni", "tfce", "", None, "the same"),
    Option("-tfce1D", "tfce_1d", "", None, "H=2, E=2, C=6"),
    Option("-tfce1d", "tfce_1d", "", None, "the same"),
    Option("-tfce2D", "tfce_2d", "", None, "H=2, E=1, C=26"),
    Option("-tfce2d", "tfce_2d", "", None, "the same"),
    Option("-tfce_H", "tfce_height", "<real>", positive, "height exponent of TFCE, 2"),
    Option("-tfce_E", "tfce_extent", "<real>", positive, "extent exponent of TFCE, 0.5"),
    Option("-tfce_C", "tfce_connectivity", "<integer>", neighbours, "neighbours of TFCE, 6"),
    Option("-tfce_dh", "tfce_step", "<real>", _step, "distance of the heights of TFCE, auto"),
    Option("-corrcon", "over_contrasts", "", None, "write p corrected over contrasts, too"),
    Option("-fdr", "fdr", "[BH]", None, "write p adjusted for the false discovery rate, too"),
    Option(
        "-accel", "accelerate", "<method>", _one_of(*get_args(Accelerated)), "tail or gamma fits"
    ),
    Option("-approx", "accelerate", "<method>", _one_of(*get_args(Accelerated)), "the same"),
    Option("-seed", "seed", "<positive>", _seed, "seed of the shufflings, 0; twist for any"),
    Option("-zstat", "z_statistic", "", None, "write z instead of t and F"),
    Option("-save1-p", "one_minus_p", "", None, "write 1 - p instead of p"),
    Option("-savecdf", "one_minus_p", "", None, "the same"),
    Option("-logp", "log_p", "", None, "write -log10 p instead of p"),
    Option("-nouncorrected", "without_uncorrected", "", None, "write no uncorrected p"),
    Option("-saveparametric", "parametric", "", None, "write parametric p, too"),
    Option("-savedof", "degrees_of_freedom", "", None, "write degrees of freedom"),
    Option("-savemask", "save_mask", "", None, "write the mask"),
    Option("-saveglm", "save_glm", "", None, "write cope and varcope of t contrasts"),
    Option("-verbosefilenames", "verbose_names", "", None, "number files even where there is one"),
    Option("-quiet", "quiet", "", None, "print errors and warnings only"),
    Option("-help", "help", "", None, "print this"),
    Option("--results", "results", "<folder>", path, "gpustats' own: clusters, result.json"),
    Option("--device", "device", "<device>", str, "gpustats' own: auto, cpu, cuda, cuda:<index>"),
)
"""What is supported."""

HARMLESS = {
    "-saveuncorrected": (0, "uncorrected p are written anyway"),
    "-noniiclass": (0, "compressed images are read as they are"),
    "-nonifticlass": (0, "compressed images are read as they are"),
    "-precision": (1, "data are float32, sums float64"),
    "-syncperms": (0, "contrasts share their shufflings anyway"),
    "-cmcp": (0, "no shuffling is used twice anyway"),
    "-cmcx": (0, "shufflings that do the same to the design are used once"),
    "-noranktest": (0, "it is for multivariate data"),
}
"""Options that do nothing here, how many values they take, and why that does no harm."""

ONE_AT_A_TIME = "joint inference is not built; test one input and one design at a time"
NO_MISSING = "say which voxels lack subjects by NaN, and use gpustats permute --missing pairwise"
OTHER_DATA = "volumes only are tested; make the transformation beforehand"
NOT_HERE = {
    "-s": "surfaces are not built; give volumes",
    "-surf": "surfaces are not built; give volumes",
    "-con": "files of several matrices are not read; use -t and -f",
    "-evperdat": "voxelwise regressors are not built",
    "-imiss": NO_MISSING,
    "-dmiss": NO_MISSING,
    "-mcar": NO_MISSING,
    "-swe": "sandwich estimators are not built",
    "-vgdemean": "several variance groups are not built; use -demean",
    "-ev4vg": "several variance groups are not built; write these regressors into the design",
    "-removevgbysize": "several variance groups are not built; leave these subjects out",
    "-npc": ONE_AT_A_TIME,
    "-npcmethod": ONE_AT_A_TIME,
    "-npcmod": ONE_AT_A_TIME,
    "-npccon": ONE_AT_A_TIME,
    "-concordant": ONE_AT_A_TIME,
    "-mv": ONE_AT_A_TIME,
    "-inputmv": ONE_AT_A_TIME,
    "-corrmod": "there is one input to correct over; leave it out",
    "-designperinput": ONE_AT_A_TIME,
    "-erie": ONE_AT_A_TIME,
    "-Cnpc": ONE_AT_A_TIME,
    "-Cmv": ONE_AT_A_TIME,
    "-Tnpc": ONE_AT_A_TIME,
    "-Tmv": ONE_AT_A_TIME,
    "-nounivariate": "univariate tests are all there are",
    "-Tstat": "TFCE is the one there is; leave it out",
    "-c": "old PALM's cluster extent is -C <z> -Cstat extent",
    "-cuni": "old PALM's cluster extent is -C <z> -Cstat extent",
    "-pearson": "use gpustats fit, which writes partial r",
    "-inormal": OTHER_DATA,
    "-probit": OTHER_DATA,
    "-transposedata": OTHER_DATA,
    "-tableasvolume": OTHER_DATA,
    "-subjidx": "leave the subjects out of the image, the design and the blocks",
    "-saveperms": "permuted maps are not written; --results keeps the maxima",
    "-savemetrics": "metrics of shufflings are not built",
    "-savemax": "--results keeps the maxima of all shufflings",
    "-forceintersectionmask": "there is one mask",
    "-draft": "old PALM's draft is -accel negbin, which is not built; use few shufflings (-n)",
}
"""Options of PALM that are refused, and what to do."""

WRONG_VALUES = {
    "-rmethod": "of PALM's methods freedman-lane, dekker and manly are built",
    "-pmethodr": "the nuisance is what spans the null hypothesis, as with beckmann",
    "-Cstat": "clusters are compared by extent or mass",
    "-accel": "fits to the null distribution of the maximum are built: tail, gamma",
    "-approx": "fits to the null distribution of the maximum are built: tail, gamma",
}
"""What else to say of a value that is not there."""

USUAL_EXTRAS = ("0.1", "0.10", "in", "G1in", "T1in", "false", "0")
"""What may follow the method of ``-accel``: its defaults."""

BY_WORD = {option.word: option for option in OPTIONS}
HELP = ("-h", "--help", "-?", "-basic", "-advanced")


@dataclass
class _Words:
    """What is left of a command line, and what was understood."""

    left: list[str]
    found: dict[str, Any]
    notes: list[str]

    def value(self, name: str, metavar: str) -> str:
        """Take the value of an option."""
        if not self.left or not self.left[0] or _is_option(self.left[0]):
            got = f"; got {self.left[0]!r}" if self.left else ""
            raise ValueError(f"{name} takes a value: {name} {metavar}{got}")
        return self.left.pop(0)

    def extras(self) -> list[str]:
        """Take the words up to the next option."""
        taken = []
        while self.left and not self.left[0].startswith("-"):
            taken.append(self.left.pop(0))
        return taken


def parse(words: Sequence[str]) -> tuple[PalmOptions, list[str]]:
    """Read the words of a command line as PALM does.

    Parameters
    ----------
    words
        What follows the name of the command.

    Returns
    -------
    options : PalmOptions
        Every option, by what it means.
    notes : list of str
        What to say of options that do nothing here.

    Raises
    ------
    ValueError
        If an option is unknown, refused, comes twice, or has no value or a wrong one.

    Examples
    --------
    >>> options, _ = parse(["-i", "con.nii", "-ise", "-n", "500", "-C", "3.1", "-logp"])
    >>> options.errors, options.n_permutations, options.cluster_z, options.log_p
    ('ise', 500, 3.1, True)
    """
    state = _Words(list(words), {}, [])
    while state.left:
        _take(state, state.left.pop(0))
    return PalmOptions(**state.found), state.notes


def configured(words: Sequence[str]) -> list[str]:
    """Return the words, those of a configuration that PALM, or this, wrote if that is all there is.

    Raises
    ------
    ValueError
        If the single word names a file that is no text.
    """
    if len(words) != 1 or words[0].startswith("-") or not Path(words[0]).is_file():
        return list(words)
    try:
        text = Path(words[0]).read_text()
    except UnicodeDecodeError:
        raise ValueError(f"{words[0]}: not a text file, so no configuration of PALM") from None
    lines = (line.partition("#")[0] for line in text.splitlines())
    return [word for line in lines for word in line.split()]


def _is_option(word: str) -> bool:
    """Tell whether a word is an option rather than a value."""
    return word in BY_WORD or word in HARMLESS or word in NOT_HERE or word in HELP


def _take(state: _Words, word: str) -> None:
    """Take an option, and what belongs to it."""
    if word in HELP:
        state.found["help"] = True
        return
    if word in NOT_HERE:
        raise ValueError(f"{word} of PALM is refused: {NOT_HERE[word]}")
    if word in HARMLESS:
        n_values, reason = HARMLESS[word]
        for _ in range(n_values):
            state.value(word, "<value>")
        state.notes.append(f"{word} does nothing here: {reason}")
        return
    if word not in BY_WORD:
        what = f"PALM has no option {word}" if word.startswith("-") else f"{word!r} is no option"
        raise ValueError(f"{what}; see gpustats palm -help")
    option = BY_WORD[word]
    if option.field in state.found:
        several = f": {ONE_AT_A_TIME}" if word in ("-i", "-m", "-d", "-t", "-f") else ""
        raise ValueError(f"{word} came twice{several}")
    state.found[option.field] = _value_of(state, option)


def _value_of(state: _Words, option: Option) -> Any:
    """Take the value of an option, and what may follow it."""
    if option.word == "-fdr":
        extras = state.extras()
        if extras and [word.lower() for word in extras] != ["bh"]:
            raise ValueError(f"-fdr is Benjamini and Hochberg's, BH; got {' '.join(extras)}")
        return True
    if option.convert is None:
        return True
    word = state.value(option.word, option.metavar)
    try:
        value = option.convert(word)
    except ValueError as error:
        more = f"; {WRONG_VALUES[option.word]}" if option.word in WRONG_VALUES else ""
        raise ValueError(f"{option.word} {error}, got {word!r}{more}") from error
    extras = state.extras() if option.field == "accelerate" else []
    if odd := [extra for extra in extras if extra not in USUAL_EXTRAS]:
        raise ValueError(f"{option.word} {word} has its usual settings only, got {odd[0]!r}")
    return value


def usage() -> str:
    """Return what ``-help`` prints."""
    lines = [
        "usage: gpustats palm -i <file> -d <design> -t <contrasts> -o <prefix> ...",
        "       gpustats palm <prefix>_palmconfig.txt",
        "",
        "A drop-in for PALM: its options, its files, its conventions.",
        "",
    ]
    for option in OPTIONS:
        written = f"{option.word} {option.metavar}".strip()
        lines.append(f"  {written:<24}{option.help}")
    for title, words in (("Do nothing", HARMLESS), ("Refused, each with what to do", NOT_HERE)):
        lines += ["", textwrap.fill(f"{title}: {', '.join(words)}.", 100)]
    return "\n".join([*lines, ""])


def as_written(options: PalmOptions) -> dict[str, Any]:
    """Return every option by its name, as a JSON keeps it."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}
