"""Tests and fits of a store, in blocks, give the bits of those in memory."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from emulator.fixtures import IS_REAL
from permuting import EVERYTHING, same
from simulate import make_maps, save_group, save_mask, volumes_of
from stores import THREE_CHUNKS, memory_for

from gpustats import Cohort, Design, fit, memory, permutation_test, stack_maps
from gpustats.archives import load_inference
from gpustats.engines import SHUFFLE_TILE, resolve
from gpustats.enhancements import ClusterMass, Voxelwise
from gpustats.loop import ContrastTest
from gpustats.memory import Load
from gpustats.merging import merge
from gpustats.shuffles import Shard
from gpustats.smoothing import Blur
from gpustats.tfce import Tfce

N = 12
OF_F = (Tfce(), Voxelwise(), ClusterMass(connectivity=18, threshold_p=0.1))


@pytest.fixture
def design(rng):
    """Two columns in quarters, which float32 holds, and the intercept."""
    columns = rng.integers(-8, 8, (2, N)) / 4
    return Design(pd.DataFrame({"age": columns[0], "sex": columns[1]}), intercept=True)


@pytest.fixture
def cohort(tmp_path, rng, design):
    """A store with voxels that cannot be analysed, each for another reason."""
    maps = make_maps(rng, n_subjects=N, shape=THREE_CHUNKS)
    assert 2048 < maps.n_voxels < 3072
    values = maps.values
    values[:, :] += 0.5 * np.outer(rng.random(maps.n_voxels), design.matrix[:, 0])
    values[77] = -2.5
    values[[0, 1030, 1031, 2500], [0, 3, 9, 4]] = np.nan
    values[1500, 4] = np.inf
    values[[5, 1023, 1024, maps.n_voxels - 1]] = 1 + 2 * design.matrix[:, 0]
    return stack_maps(
        volumes_of(maps, np.nan), maps.grid, tmp_path / "c.zarr", subjects_per_shard=8
    )


@pytest.fixture
def small_tiles(device, monkeypatch):
    """Tiles of voxels of a size that a small mask has several of."""
    if device == "cuda":
        from gpustats.engines import gpu, gpu_glm, gpu_sweep

        for module in (gpu, gpu_glm, gpu_sweep):
            monkeypatch.setattr(module, "VOXEL_TILE", 1024)


@pytest.fixture
def budget(cohort, device, small_tiles):
    """Return the memory that makes blocks of so many tiles of 1,024 voxels."""
    del small_tiles
    assert resolve(device).voxel_tile() == 1024

    return partial(memory_for, cohort)


def count_reads(monkeypatch):
    """Note which voxels of stores are read."""
    read, whole = [], Cohort.read

    def counted(self, start=0, stop=None):
        read.append(range(start, stop))
        return whole(self, start, stop)

    monkeypatch.setattr(Cohort, "read", counted)
    return read


@pytest.mark.parametrize("n_tiles", [1, 2, 3])
def test_a_fit_of_a_store_is_that_of_its_maps(cohort, design, device, n_tiles, monkeypatch):
    expected = fit(cohort.load(), design, device=device)
    read = count_reads(monkeypatch)
    if device == "cuda":
        from gpustats.engines import gpu

        monkeypatch.setattr(gpu, "VOXEL_TILE", 1024)
    load = Load(cohort.n_voxels, N, 3)
    size = load.fixed_bytes + 12 * N * 1024 * n_tiles
    fitted = fit(cohort, design, device=device, memory=size)
    assert [len(span) for span in read[:-1]] == [1024 * n_tiles] * (len(read) - 1)
    assert sum(map(len, read)) == cohort.n_voxels
    assert np.array_equal(fitted.maps.grid.mask, expected.maps.grid.mask)
    assert fitted.maps.dropped == expected.maps.dropped
    assert sorted(fitted.maps.dropped.values()) == [1, 4, 5]
    assert fitted.coordinates.strides == expected.coordinates.strides
    for name in ("coordinates", "residual_ss"):
        assert np.array_equal(getattr(fitted, name), getattr(expected, name))
    for contrast in ("age - sex", ["age", "sex"]):
        for name in ("effect", "variance", "statistic", "z"):
            ours, theirs = (getattr(one.contrast(contrast), name) for one in (fitted, expected))
            assert np.array_equal(ours, theirs)
    for name in ("residuals", "predicted", "r_square"):
        assert np.array_equal(getattr(fitted, name)(), getattr(expected, name)())


CASES = {
    "voxels": ("age", {}),
    "one-sided": ("age", {"two_sided": False}),
    "F": (["age", "sex"], {}),
    "mean": ("intercept", {"errors": "ise"}),
    "dekker": ("age", {"scheme": "dekker"}),
    "two contrasts": ({"a": "age", "s": "sex"}, {}),
    "spatial": ("age", {"statistics": EVERYTHING}),
    "spatial, one-sided": ("age", {"statistics": EVERYTHING, "two_sided": False}),
    "spatial, F": (["age", "sex"], {"statistics": OF_F}),
    "counts": ("age", {"statistics": EVERYTHING, "uncorrected": True}),
    "contributions": ("age", {"statistics": (Voxelwise(),), "null_contributions": True}),
    "pseudo-t": ("age", {"statistics": (Tfce(), Voxelwise()), "variance_smoothing_mm": 5.0}),
    "own levels": ("age", {"statistics": (Tfce(levels=30, own_levels=True),)}),
    "two contrasts of maps": ({"a": "age", "s": "sex"}, {"statistics": (Tfce(),)}),
}


COMBINATIONS = [
    (device, case, n_tiles)
    for device in ("cpu", "cuda")
    for case in CASES
    for n_tiles in (1, 2, 3)
    # the emulator takes its time, and two tiles tell it little that one does not
    if IS_REAL or (device, n_tiles) != ("cuda", 2)
]


@pytest.mark.parametrize(("device", "case", "n_tiles"), COMBINATIONS, indirect=["device"])
def test_every_statistic_of_a_store_is_that_of_its_maps(
    cohort, design, device, budget, case, n_tiles
):
    contrast, options = CASES[case]
    run = partial(permutation_test, design=design, contrast=contrast, device=device, **options)
    n_shuffles = 200 if "statistics" not in options else 40
    expected = run(cohort.load(), n_permutations=n_shuffles)
    spatial = "statistics" in options
    blur = Blur(cohort.grid, 5.0) if "variance_smoothing_mm" in options else None
    maps_each = 2 if blur else 1
    size = budget(
        n_tiles,
        spatial=spatial,
        maps_per_shuffle=maps_each,
        smoothing_bytes=blur.working_bytes if blur else 0,
        n_rows=1 if options.get("scheme") == "dekker" else 3,
        n_contrasts=2 if "two" in case else 1,
        n_statistics=len(options.get("statistics", "1")),
    )
    # some maps beside the blocks, or all of them
    size += 4 * cohort.n_voxels * (n_shuffles if n_tiles == 3 else 7) * spatial * maps_each
    found = run(cohort, n_permutations=n_shuffles, memory=size)
    assert same(found, expected)
    for plan in found.settings["plan"]["contrasts"].values():
        assert (plan["n_blocks"] == 1) == (n_tiles == 3)


@pytest.mark.parametrize("statistics", [(Voxelwise(),), (Voxelwise(), Tfce())])
def test_shards_of_a_store_merge_to_the_whole_in_memory(cohort, budget, device, statistics):
    spatial = len(statistics) == 2
    size = budget(1, spatial=spatial, rank=1, n_statistics=2) + spatial * 4 * cohort.n_voxels * 16
    run = partial(permutation_test, statistics=statistics, n_permutations=250, device=device)
    if device == "cuda" and spatial:
        run = partial(run, n_permutations=40)
    shards = [run(cohort, shuffles=Shard(k, 3), memory=size) for k in (2, 1, 3)]
    assert same(merge(shards), run(cohort.load()))


@pytest.mark.parametrize(
    ("device", "n_permutations"),
    # the emulator would take minutes for 4,000
    [("cpu", 200), ("cpu", 4000), ("cuda", 200), *[("cuda", 4000)] * IS_REAL],
    indirect=["device"],
)
def test_a_store_is_read_once_for_maxima_of_voxels(
    cohort, budget, device, monkeypatch, n_permutations
):
    read = count_reads(monkeypatch)
    drawn = []
    engine = resolve(device)
    rows = engine.shuffled_rows
    if device == "cpu":
        monkeypatch.setattr(
            engine, "shuffled_rows", lambda *words: drawn.append(words[2]) or rows(*words)
        )
    found = permutation_test(
        cohort,
        n_permutations=n_permutations,
        device=device,
        # room for the rows of a few tiles
        memory=budget(1, rank=1) + 60_000,
    )
    # the fit, then the test
    n_voxels = sorted(v for span in read for v in span)
    kept = found["voxelwise"].observed.size
    assert len(n_voxels) >= cohort.n_voxels + kept
    assert max(np.bincount(n_voxels)) == 2
    plan = found.settings["plan"]["contrasts"]["intercept"]
    assert plan["n_blocks"] > plan["passes"] == 1
    if device == "cpu":
        n_tiles = -(-n_permutations // SHUFFLE_TILE)
        assert plan["keeps_rows"] == (n_permutations == 200)
        assert len(drawn) == 1 + n_tiles * (1 if plan["keeps_rows"] else plan["n_blocks"])


def test_maps_cost_the_passes_that_were_planned(cohort, budget, monkeypatch, device):
    statistics = (Voxelwise(), Tfce())
    size = budget(1, spatial=True, rank=1, n_statistics=2) + 4 * (
        cohort.n_voxels * 13 - 3 * 192 * N
    )
    run = partial(permutation_test, statistics=statistics, shuffles=range(10, 34), device=device)
    expected = run(cohort.load())
    read = count_reads(monkeypatch)
    found = run(cohort, memory=size)
    plan = found.settings["plan"]["contrasts"]["intercept"]
    # 12 divide a tile, 13 do not: 10 to 12, 12 to 24, 24 to 34; and the observed one
    assert (plan["maps"], plan["passes"], plan["n_blocks"]) == (12, 4, 3)
    # and the fit
    assert len([span for span in read if span.start < 1024]) == 4 + 1
    assert plan["bytes_read"] == 4 * 4 * cohort.n_voxels * cohort.n_subjects
    assert same(found, expected)


def test_several_tiles_of_maps_are_filled_in_a_pass(rng, tmp_path):
    maps = make_maps(rng, n_subjects=300, shape=THREE_CHUNKS)
    cohort = stack_maps(volumes_of(maps), maps.grid, tmp_path / "many.zarr")
    load = Load(maps.n_voxels, 300, 1, n_statistics=2, spatial=True)
    size = load.fixed_bytes + 3 * load.tile_bytes + 4 * SHUFFLE_TILE * (1024 + 3 * maps.n_voxels)
    size += 1024 * 8 * 300
    statistics = (Tfce(), Voxelwise())
    run = partial(permutation_test, statistics=statistics, shuffles=range(100, 900), device="cpu")
    found = run(cohort, memory=size)
    plan = found.settings["plan"]["contrasts"]["intercept"]
    assert plan["n_blocks"] > 1
    assert plan["maps"] == 2 * SHUFFLE_TILE
    assert same(found, run(cohort.load()))


def test_the_plan_is_told_before_it_starts_and_kept(cohort, budget, log, monkeypatch):
    messages = []

    def stop(*_):
        messages.extend(log.messages)
        raise KeyboardInterrupt

    monkeypatch.setattr(Cohort, "read", stop)
    with pytest.raises(KeyboardInterrupt):
        permutation_test(cohort, device="cpu", memory=budget(1, rank=1))
    assert any("plan of intercept: 3 blocks of 1,024 voxels, 1 pass" in line for line in messages)
    monkeypatch.undo()
    found = permutation_test(cohort, n_permutations=20, device="cpu", memory="1G")
    assert found.settings["plan"]["contrasts"]["intercept"]["n_blocks"] == 1
    assert json.dumps(found.settings["plan"])


@pytest.mark.parametrize("spatial", [False, True])
def test_too_little_memory_is_refused_with_what_would_do_before_anything_is_read(
    cohort, monkeypatch, spatial
):
    statistics = (Tfce(),) if spatial else (Voxelwise(),)
    run = partial(permutation_test, cohort, statistics=statistics, n_permutations=20, device="cpu")
    read = count_reads(monkeypatch)
    with pytest.raises(ValueError, match="too little for 12 subjects and 2,.* voxels") as refused:
        run(memory="1M")
    assert read == []
    enough = int(str(refused.value).split("at least ")[1].split()[0].replace(",", ""))
    with pytest.raises(ValueError, match="too little"):
        run(memory=f"{enough - 1}M")
    assert read == []
    assert run(memory=f"{enough}M").outcomes[0].is_complete


def test_wrong_words_are_refused_before_anything_is_read(cohort, monkeypatch):
    read = count_reads(monkeypatch)
    for options, message in (
        ({"contrast": "nobody"}, "nobody"),
        ({"shuffles": range(9000, 9001)}, "range without gaps"),
        ({"memory": "plenty"}, "memory must be a size"),
        ({"memory": 0}, "memory must be a size"),
        ({"memory": "0.5"}, "memory must be a size"),
        ({"scheme": "smith"}, "scheme must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            permutation_test(cohort, device="cpu", **options)
    assert read == []


def test_half_of_what_is_free_is_taken(cohort, monkeypatch):
    engine = resolve("cpu")
    monkeypatch.setattr(engine, "free_bytes", lambda: 2**30)
    assert memory.budget_of(engine, None) == 2**29
    assert memory.budget_of(engine, 5) == 5
    assert permutation_test(cohort, n_permutations=5, device="cpu").outcomes[0].is_complete


def test_a_contrast_lets_go_of_its_data(rng, monkeypatch):
    """The data of the contrasts before are not held."""
    import gc
    import weakref

    alive = []
    run = ContrastTest.run
    tiles = []
    make = resolve("cpu").unit_tiles

    def unit_tiles(values, removed):
        units = make(values, removed)
        tiles.append(weakref.ref(units.tiles))
        return units

    def noted(self, finish, keeper):
        gc.collect()
        alive.append(sum(tile() is not None for tile in tiles))
        return run(self, finish, keeper)

    monkeypatch.setattr(resolve("cpu"), "unit_tiles", unit_tiles)
    monkeypatch.setattr(ContrastTest, "run", noted)
    maps = make_maps(rng)
    table = pd.DataFrame(rng.normal(size=(12, 3)), columns=list("abc"))
    contrasts = {name: name for name in "abc"}
    permutation_test(
        maps, Design(table), contrasts, statistics=(Tfce(),), n_permutations=20, device="cpu"
    )
    assert len(tiles) == 3
    assert alive == [0, 0, 0]


# the command line


def test_commands_take_stores(run, cohort, tmp_path):
    maps = cohort.load()
    paths = save_group(tmp_path, maps)
    mask = ["--mask", save_mask(tmp_path, maps)]
    words = ["--statistics", "voxelwise,tfce", "--n-permutations", "60"]
    for source, folder in (([*paths, *mask], "files"), ([cohort.name], "store")):
        assert run("fit", *source, "--output-dir", f"fit-{folder}")[0] == 0
        status, _, err = run("permute", *source, *words, "--output-dir", folder)
        assert status == 0
        assert ("plan of intercept: " in err) == (folder == "store")
    for store, files in (("store", "files"), ("fit-store", "fit-files")):
        names = sorted(path.name for path in Path(files).glob("*.nii.gz"))
        assert len(names) > 5
        for name in names:
            assert Path(store, name).read_bytes() == Path(files, name).read_bytes()
    assert same(*(load_inference(Path(f, "inference.npz")) for f in ("store", "files")))
    summary = json.loads(Path("store", "result.json").read_text())
    assert summary["test"]["plan"]["contrasts"]["intercept"]["passes"] == 1
    assert summary["data"]["dropped_voxels"] == {"missing in some map": 5, "equal in all maps": 1}
    assert json.loads(Path("fit-store", "result.json").read_text())["plan"]["n_blocks"] == 1


@pytest.mark.parametrize("command", ["fit", "permute"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mask", "mask.nii"], "--mask: "),
        (["--smoothing-fwhm", "5"], "--smoothing-fwhm: "),
        (["--resample", "--zero-is-missing"], "--resample, --zero-is-missing: "),
        (["--map-name", "con"], "--map-name: "),
        (["--missing", "raise"], "4 maps have voxels without data, a map from memory the first"),
        (["--memory", "1M"], "1 MiB of memory are too little for 12 subjects"),
        (["--memory", "much"], "memory must be a size such as '2G' or '500M', got 'much'"),
    ],
)
def test_what_a_store_cannot_do_is_one_line(run, capsys, cohort, command, words, message):
    try:
        status, out, err = run(command, cohort.name, *words)
    except SystemExit as stop:
        captured = capsys.readouterr()
        status, out, err = stop.code, captured.out, captured.err
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("gpustats: error: ")
    assert os.listdir() == []


def test_files_have_no_memory_to_plan(run, tmp_path, rng):
    paths = save_group(tmp_path, make_maps(rng))
    status, _, err = run("fit", *paths, "--memory", "2G")
    assert status == 2
    assert "--memory speaks of a store; make one with gpustats stack" in err
