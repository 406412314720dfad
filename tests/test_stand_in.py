"""The stand-in for CuPy refuses what CuPy refuses, and shows what a GPU would do."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from emulator import real_cupy, stand_in

pytestmark = pytest.mark.usefixtures("emulated")

HOST_ARRAY = "Unsupported type <class 'numpy.ndarray'>"
IMPLICIT = (
    "Implicit conversion to a NumPy array is not allowed. "
    "Please use `.get()` to construct a NumPy array explicitly."
)
NOT_ON_DEVICE = (
    "Argument 'a' has incorrect type (expected cupy._core.core._ndarray_base, got numpy.ndarray)"
)

# expressions of `a`, float32 (4,) on the device, and `host`, the same on the host, with the error
# of CuPy 14.2, which is asked, where it is installed, for those that it raises without a driver
REFUSED_WITHOUT_DRIVER = {
    "np.asarray(a)": (TypeError, IMPLICIT),
    "a.__setitem__(slice(None), host)": (
        ValueError,
        "non-scalar numpy.ndarray cannot be used for fill",
    ),
    "a.__setitem__(slice(None), [1, 2, 3, 4])": (
        ValueError,
        "non-scalar numpy.ndarray cannot be used for fill",
    ),
    "a.set([1, 2, 3, 4])": (TypeError, "Only numpy.ndarray can be set to cupy.ndarray"),
    "a.set(a)": (TypeError, "Only numpy.ndarray can be set to cupy.ndarray"),
    "a.set(np.zeros(4))": (TypeError, "float64 array cannot be set to float32 array"),
    "a.set(np.zeros(5, 'f'))": (ValueError, "Shape mismatch. Old shape: (4,), new shape: (5,)"),
    "bool(a)": (
        ValueError,
        "The truth value of an array with more than one element is ambiguous. "
        "Use a.any() or a.all()",
    ),
    "a.nosuch": (AttributeError, "'ndarray' object has no attribute 'nosuch'"),
    "cupy.sum(a, where=True)": (TypeError, "sum() got an unexpected keyword argument 'where'"),
    "a.sum(where=True)": (TypeError, "sum() got an unexpected keyword argument 'where'"),
    "cupy.empty(3, device=0)": (TypeError, "empty() got an unexpected keyword argument 'device'"),
    "cupy.ascontiguousarray(host)": (TypeError, NOT_ON_DEVICE),
    "cupy.asfortranarray(host)": (TypeError, NOT_ON_DEVICE),
    "cupy.copyto(a, host)": (ValueError, "non-scalar numpy.ndarray cannot be used for copyto"),
    "cupy.matmul(a, host)": (TypeError, None),
    "cupy.dot(a, host)": (TypeError, None),
    "cupy.take(host, a)": (TypeError, None),
    "cupy.lexsort((a, a))": (AttributeError, "'tuple' object has no attribute 'ndim'"),
    "cupy.nosuch": (AttributeError, None),
    "cupy.cublas": (AttributeError, None),
    "cupy.RawModule()": (
        TypeError,
        "Exactly one of `code` and `path` keyword arguments must be given.",
    ),
    "cupy.RawModule(code='', options=['-DX'])": (
        TypeError,
        "Argument 'options' has incorrect type (expected tuple, got list)",
    ),
    "cupy.RawModule(code='', define=1)": (TypeError, None),
    "cupy.cuda.Device('a')": (ValueError, "invalid literal for int() with base 10: 'a'"),
    "raised(cupy.cuda.memory.OutOfMemoryError(1024, 2048))": (
        "OutOfMemoryError",
        "Out of memory allocating 1,024 bytes (allocated so far: 2,048 bytes).",
    ),
    "raised(cupy.cuda.runtime.CUDARuntimeError(101))": (
        "CUDARuntimeError",
        "cudaErrorInvalidDevice: invalid device ordinal",
    ),
}
REFUSED = {
    "a + host": (TypeError, HOST_ARRAY),
    "host + a": (TypeError, HOST_ARRAY),
    "a.__iadd__(host)": (TypeError, HOST_ARRAY),
    "cupy.maximum(a, host)": (TypeError, HOST_ARRAY),
    "cupy.maximum(a, a, out=host)": (TypeError, HOST_ARRAY),
    "cupy.where(a > 1, host, a)": (TypeError, HOST_ARRAY),
    "cupy.concatenate([a, host])": (TypeError, HOST_ARRAY),
    "a.get(out=np.zeros(5, 'f'))": (
        ValueError,
        "Shape mismatch. Expected shape: (4,), actual shape: (5,)",
    ),
    "a.get(out=np.zeros(4))": (TypeError, "float64 array cannot be obtained from float32 array"),
    "a.get(out=[0])": (TypeError, "Only numpy.ndarray can be obtained fromcupy.ndarray"),
    "a.get(out=np.zeros((4, 2), 'f')[:, 0])": (
        RuntimeError,
        "`out` cannot be specified when copying to non-contiguous ndarray",
    ),
    "a.get(order='Z')": (ValueError, "unsupported order: Z"),
    "cupy.asarray(host).reshape(2, 2)[:, :1].set(host[:2].reshape(2, 1))": (
        RuntimeError,
        "Cannot set to non-contiguous array",
    ),
    "cupy.sort(a, kind='heapsort')": (ValueError, "kind can only be None or 'stable'"),
    "cupy.cuda.Device(2).use()": (
        "CUDARuntimeError",
        "cudaErrorInvalidDevice: invalid device ordinal",
    ),
    "cupy.cuda.runtime.getDeviceProperties(2)": (
        "CUDARuntimeError",
        "cudaErrorInvalidDevice: invalid device ordinal",
    ),
    "cupy.cuda.get_elapsed_time(cupy.cuda.Event(), cupy.cuda.Event())": (
        "CUDARuntimeError",
        "cudaErrorInvalidResourceHandle: invalid resource handle",
    ),
}
# CuPy copies or computes on the host in silence where the stand-in asks for a word
STRICTER_THAN_CUPY = {
    "a[np.array([0, 1])]": TypeError,
    "a.__setitem__(np.array([0, 1]), 1)": TypeError,
    "a.take(np.array([0, 1]))": TypeError,
    "cupy.sum(host)": TypeError,
    "cupy.sort(host)": TypeError,
    "cupy.argsort(host)": TypeError,
    "cupy.ravel(host)": TypeError,
    "np.sum(a)": TypeError,
    "np.add(a, a)": TypeError,
    "cupy.where(a)": ValueError,
    "cupy.RawModule(code='', backend='nvcc')": NotImplementedError,
    "cupy.cuda.Stream(ptds=True)": NotImplementedError,
}


@pytest.fixture
def names(cupy):
    host = np.arange(4, dtype=np.float32)
    return {"cupy": cupy, "host": host, "a": cupy.asarray(host)}


def stand_in_names():
    """Return the public names of every module of the stand-in, and of its arrays."""
    contents = {name: [*module] for name, module in stand_in._contents().items()}
    methods = [name for name in vars(stand_in.ndarray) if not name.startswith("_")]
    return contents | {"ndarray": methods}


@pytest.fixture(scope="module")
def facts():
    """What CuPy itself raises and takes."""
    if not importlib.util.find_spec("cupy"):
        pytest.skip("CuPy is not installed")
    done = subprocess.run(
        [sys.executable, real_cupy.__file__],
        input=json.dumps([[*REFUSED_WITHOUT_DRIVER], stand_in_names()]),
        capture_output=True,
        text=True,
        cwd=Path(real_cupy.__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def is_as_told(answer, kind, message):
    raised_kind, raised_message = answer
    return raised_kind == getattr(kind, "__name__", kind) and message in (None, raised_message)


@pytest.mark.parametrize("expression", [*REFUSED_WITHOUT_DRIVER, *REFUSED])
def test_what_cupy_refuses_is_refused_in_its_words(names, expression):
    told = (REFUSED_WITHOUT_DRIVER | REFUSED)[expression]
    answer = real_cupy.answer(expression, names)
    assert is_as_told(answer, *told), answer


@pytest.mark.parametrize("expression", REFUSED_WITHOUT_DRIVER)
def test_these_are_the_words_of_cupy(facts, expression):
    answer = facts[0][expression]
    assert is_as_told(answer, *REFUSED_WITHOUT_DRIVER[expression]), answer


@pytest.mark.parametrize("expression", STRICTER_THAN_CUPY)
def test_what_cupy_copies_in_silence_is_refused(names, expression):
    assert real_cupy.answer(expression, names)[0] == STRICTER_THAN_CUPY[expression].__name__


def test_all_names_are_names_of_cupy_and_take_what_it_takes(facts):
    checked = 0
    for name, real in facts[1].items():
        holder = vars(stand_in.ndarray if name == "ndarray" else stand_in._built()[name])
        for each in stand_in_names()[name]:
            assert each in real, f"CuPy has no {name}.{each}"
            if callable(holder[each]) and real[each] and "args" not in real[each]:
                taken = real_cupy.parameters(holder[each])
                assert taken.items() <= real[each].items(), f"{name}.{each}: {taken}, {real[each]}"
                checked += 1
    assert checked > 100


COMPUTATIONS = {
    "x + 1": lambda x: x + 1,
    "2 - x": lambda x: 2 - x,
    "np.float32(2) * x": lambda x: np.float32(2) * x,
    "-abs(x) >= x.T": lambda x: -abs(x[:, :4]) >= x[:, :4].T,
    "x @ x.T": lambda x: x @ x.T,
    "x.sum(axis=0)": lambda x: x.sum(axis=0),
    "x.sum()": lambda x: x.sum(),
    "x.max(1, keepdims)": lambda x: x.max(axis=1, keepdims=True),
    "x.argmax(0)": lambda x: x.argmax(axis=0),
    "x.astype": lambda x: x.astype(np.int8),
    "x.ravel.take": lambda x: x.ravel().take(x.ravel().argsort()),
    "x[1, 2]": lambda x: x[1, 2],
    "x[:, None, ::2]": lambda x: x[:, None, ::2],
    "x[x > 0]": lambda x: x[x > 0],
    "x.nonzero": lambda x: x.nonzero()[1],
    "x.reshape": lambda x: x.T.reshape(2, -1),
    "x.cumsum": lambda x: x.cumsum(axis=1),
    "x.clip": lambda x: x.clip(-1, 1),
    "x.view": lambda x: x.view(np.int32) >> 31,
}
FUNCTIONS = {
    "sqrt": lambda xp, x: xp.sqrt(xp.abs(x)),
    "maximum": lambda xp, x: xp.maximum(x, 0, dtype=np.float64),
    "where": lambda xp, x: xp.where(xp.isfinite(x), x, 0),
    "concatenate": lambda xp, x: xp.concatenate([x, x[:1]], axis=0),
    "stack": lambda xp, x: xp.stack((x, x), axis=1),
    "sort": lambda xp, x: xp.sort(x, axis=None),
    "argsort keeps ties": lambda xp, x: xp.argsort(x.astype(np.int32).ravel(), kind="stable"),
    "lexsort": lambda xp, x: xp.lexsort(xp.stack([x[0], xp.zeros_like(x[0])])),
    "unique": lambda xp, x: xp.unique(x.astype(np.int32), return_counts=True)[1],
    "bincount": lambda xp, x: xp.bincount(xp.arange(x.shape[1]), minlength=9),
    "searchsorted": lambda xp, x: xp.searchsorted(xp.sort(x[0]), x[1], side="right"),
    "broadcast_to": lambda xp, x: xp.broadcast_to(x[0], (4, x.shape[1])) + 1,
    "moveaxis": lambda xp, x: xp.moveaxis(x[None], 0, 2),
    "full": lambda xp, x: xp.full(x.shape, 7, dtype=np.int16) + xp.ones(x.shape, np.int16),
}


@pytest.fixture(params=[None, 3, 8], ids=["at once", "seed 3", "seed 8"])
def when(request, cuda):
    """Work that is executed at once, or put off."""
    if request.param is None:
        yield
    else:
        with cuda.asynchronous(request.param):
            yield


@pytest.fixture
def x(rng):
    return (3 * rng.normal(size=(4, 6))).astype(np.float32)


def assert_same(device, host):
    found = device.get()
    assert isinstance(found, np.ndarray)
    assert found.dtype == host.dtype
    np.testing.assert_array_equal(found, host, strict=True)


@pytest.mark.usefixtures("when")
@pytest.mark.parametrize("name", COMPUTATIONS)
def test_arrays_compute_as_numpy_arrays(cupy, x, name):
    compute = COMPUTATIONS[name]
    assert_same(compute(cupy.asarray(x)), np.asarray(compute(x)))


@pytest.mark.usefixtures("when")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_compute_as_those_of_numpy(cupy, x, name):
    compute = FUNCTIONS[name]
    host = compute(np, x)
    assert_same(compute(cupy, cupy.asarray(x)), host)


@pytest.mark.usefixtures("when")
def test_arrays_change_in_place(cupy, x):
    device, view = cupy.asarray(x), None
    view = device[1:3]
    view += 1
    device[0] = 5
    device[:, 2] = device[:, 3]
    cupy.maximum(device, 0, out=device)
    device[3].fill(-2)
    x[1:3] += 1
    x[0] = 5
    x[:, 2] = x[:, 3]
    np.maximum(x, 0, out=x)
    x[3] = -2
    assert_same(device, x)


def test_what_leaves_a_reduction_is_an_array_until_it_is_fetched(cupy):
    total = cupy.arange(4).sum()
    assert isinstance(total, cupy.ndarray)
    assert (total.shape, float(total), int(total), [0, 1][total == 6 and 1]) == ((), 6.0, 6, 1)


def test_layout_is_kept_and_told(cupy, x):
    fortran = cupy.asarray(np.asfortranarray(x))
    assert fortran.flags.f_contiguous
    assert not fortran.flags["C_CONTIGUOUS"]
    assert fortran.get().flags.c_contiguous
    assert fortran.get(order="A").flags.f_contiguous
    assert cupy.ascontiguousarray(fortran).flags.c_contiguous
    assert cupy.asfortranarray(fortran) is fortran
    assert cupy.empty_like(fortran).flags.f_contiguous
    assert fortran[1:].data.ptr == fortran.data.ptr + 4
    assert not fortran[1:].flags.owndata
    assert cupy.may_share_memory(fortran, fortran.T)


def test_products_need_no_defined_output_and_obey_the_math_mode(cupy, x):
    from cupy import cublas

    device = cupy.asarray(x)
    out = cupy.empty((4, 4), np.float32)
    assert cublas.gemm("N", "T", device, device, out=out, alpha=2.0, beta=0.0) is out
    assert_same(out, 2 * (x @ x.T))
    assert cublas.gemm("T", "N", device, device).flags.f_contiguous
    from cupy_backends.cuda.libs import cublas as library

    handle = cupy.cuda.Device().cublas_handle
    library.setMathMode(handle, library.CUBLAS_TF32_TENSOR_OP_MATH)
    assert library.getMathMode(handle) == 3
    rounded = cublas.gemm("N", "T", device, device).get()
    assert 1e-5 < np.abs(rounded - x @ x.T).max() < 1e-1
    for misuse, kind in ((("N", "Q"), TypeError), (("N", "N"), AssertionError)):
        with pytest.raises(kind):
            cublas.gemm(*misuse, device, device)
