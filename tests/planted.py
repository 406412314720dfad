"""Deliberate bugs in kernels: what the tests of a kernel must notice."""

from typing import NamedTuple


class Bug(NamedTuple):
    """A text of a kernel's source and what to write in its place."""

    kernel: str
    original: str
    replacement: str
    why: str


def caught(bug, check, monkeypatch):
    """Whether a check fails with the bug in place, other than by not compiling."""
    from gpustats import cuda

    pasted = cuda.source
    text = pasted(bug.kernel)
    assert text.count(bug.original) == 1, f"{bug.original!r} is not there once"
    planted = text.replace(bug.original, bug.replacement)

    with monkeypatch.context() as patch:
        patch.setattr(cuda, "source", lambda name: planted if name == bug.kernel else pasted(name))
        try:
            check()
        except Exception as error:
            if "compile" in str(error):
                raise
            return True
    return False
