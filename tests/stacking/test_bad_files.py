"""Files that cannot be used are named, and keep no other out of a store."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from simulate import AFFINE, save_group
from stores import contents, stack

from gpustats import Cohort, stack_maps


def spoil(file, how):
    """Make a file unusable in one way."""
    content = bytearray(file.read_bytes())
    shape = (9, 10, 8)
    if how == "truncated":
        file.write_bytes(content[:-300])
    elif how == "flipped":
        content[-200] ^= 1
        file.write_bytes(content)
    elif how == "text":
        file.write_text("hello")
    elif how == "other grid":
        nib.save(nib.Nifti1Image(np.ones(shape, np.float32), AFFINE + np.eye(4, k=3)), file)
    elif how == "no data":
        nib.save(nib.Nifti1Image(np.full(shape, np.nan, np.float32), AFFINE), file)
    elif how == "four dimensions":
        nib.save(nib.Nifti1Image(np.ones((*shape, 2), np.float32), AFFINE), file)
    else:
        file.unlink()


REASONS = {
    "truncated": "truncated or damaged",
    "flipped": "truncated or damaged",
    "text": "not a readable NIfTI image",
    "other grid": "differs from affine .* of the mask",
    "no data": "no finite voxel in the mask",
    "four dimensions": "images in a list must be 3D",
    "vanished": "no such file",
}


@pytest.mark.parametrize(("how", "reason"), REASONS.items())
def test_a_bad_file_is_named_and_the_rest_goes_on_once_it_is_mended(files, maps, path, how, reason):
    whole = files[9].read_bytes()
    spoil(files[9], how)
    kind = FileNotFoundError if how == "vanished" else ValueError
    with pytest.raises(kind, match=rf"sub-10_con\.nii\.gz: .*{reason}"):
        stack(files, maps, path)
    if how != "vanished":
        assert np.array_equal(Cohort.open(path).read(), maps.values[:, :9])
    files[9].write_bytes(whole)
    assert np.array_equal(stack(files, maps, path).read(), maps.values)


def test_bad_files_are_left_out_and_listed(files, maps, path, log):
    for file, how in zip(files, REASONS, strict=False):
        spoil(file, how)
    cohort = stack(files, maps, path, skip_bad=True)
    assert np.array_equal(cohort.read(), maps.values[:, 7:])
    assert cohort.subjects == tuple(f"sub-{n:02d}" for n in range(8, 15))
    for skipped, file, reason in zip(cohort.skipped, files, REASONS.values(), strict=False):
        assert skipped.file == str(file)
        assert re.search(reason, skipped.reason)
        assert f"left out: {skipped.reason}" in log.text
    lines = Path(f"{path}.skipped.tsv").read_text().splitlines()
    assert lines[0] == "label\tfile\tvolume\treason"
    assert len(lines) == 8
    assert lines[1].startswith(f"sub-01\t{files[0]}\t0\t{files[0]}: the file is truncated")
    # the same command does not try them again, and adding them mended does
    before = contents(path)
    stack(files, maps, path, skip_bad=True)
    assert contents(path) == before
    mended = save_group(files[0].parent, maps)
    cohort = stack_maps([mended[2]], None, path, append=True)
    assert cohort.subjects[-1] == "sub-03"
    assert len(cohort.skipped) == 6


def test_a_store_of_bad_files_only_has_no_subjects(files, maps, path):
    for file in files:
        spoil(file, "text")
    with pytest.raises(ValueError, match="no subject is in it yet"):
        stack(files, maps, path, skip_bad=True)
    mended = save_group(files[0].parent, maps)
    assert stack_maps(mended, None, path, append=True).n_subjects == len(files)


def test_nothing_is_said_of_bad_files_where_there_are_none(files, maps, path):
    assert stack(files, maps, path, skip_bad=True).skipped == ()
    assert not Path(f"{path}.skipped.tsv").exists()
