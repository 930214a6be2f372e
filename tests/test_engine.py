"""The engine's mathematics and random numbers, compared with implementations by others."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from gpu_marl_envs.backends import cpu
from gpu_marl_envs.sources import sources_folder

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("engine") / "functions.so"
    flags = ["-std=c++17", "-O2", "-shared", "-fPIC", "-ffp-contract=off", f"-I{sources_folder()}", "-Wall", "-Werror"]
    source = Path(__file__).with_name("engine_functions.cpp")
    subprocess.run([*cpu._compiler(), *flags, "-o", str(target), str(source)], check=True)
    return ctypes.CDLL(str(target))


def _apply(library: ctypes.CDLL, name: str, x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    x = np.ascontiguousarray(x, np.float32)
    y = np.zeros_like(x) if y is None else np.ascontiguousarray(y, np.float32)
    result = np.empty_like(x)
    pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (x, y, result))
    getattr(library, f"map_{name}")(*pointers, ctypes.c_long(x.size))
    return result


def _errors_in_ulp(result: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Errors in units of the last place of the exact value, and of 2^-126 for smaller ones."""
    unit = np.spacing(np.maximum(np.abs(exact).astype(np.float32), np.float32(2.0**-126)))
    return np.abs(result.astype(np.float64) - exact) / unit


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sine_and_cosine(library: ctypes.CDLL, name: str) -> None:
    x = np.concatenate([RANDOM.uniform(-8192, 8192, 200_000), RANDOM.uniform(-7, 7, 200_000)]).astype(np.float32)
    exact = getattr(np, name)(x.astype(np.float64))
    assert np.abs(_apply(library, name, x) - exact).max() < 1.2e-7
    assert (np.abs(_apply(library, name, x)) <= 1).all()


@pytest.mark.parametrize(
    ("name", "low", "high"), [("exp", -103.0, 88.7), ("tanh", -12.0, 12.0), ("log", 1e-3, 100.0), ("log", 0.9, 1.1)]
)
def test_functions_of_one_variable(library: ctypes.CDLL, name: str, low: float, high: float) -> None:
    x = RANDOM.uniform(low, high, 400_000).astype(np.float32)
    exact = getattr(np, name)(x.astype(np.float64))
    assert _errors_in_ulp(_apply(library, name, x), exact).max() < 2.5


def test_logarithm_over_all_magnitudes(library: ctypes.CDLL) -> None:
    bits = RANDOM.integers(1, 0x7F800000, 400_000, dtype=np.uint32)  # subnormal numbers included
    x = bits.view(np.float32)
    assert _errors_in_ulp(_apply(library, "log", x), np.log(x.astype(np.float64))).max() < 2.0


def test_arctangent_in_all_quadrants(library: ctypes.CDLL) -> None:
    y, x = RANDOM.normal(size=(2, 400_000)).astype(np.float32)
    exact = np.arctan2(y.astype(np.float64), x.astype(np.float64))
    assert _errors_in_ulp(_apply(library, "atan2", y, x), exact).max() < 4.0
    assert _apply(library, "atan2", np.zeros(3), np.array([0.0, 1.0, -1.0])).tolist() == pytest.approx([0, 0, np.pi])


def test_ends_of_the_domains(library: ctypes.CDLL) -> None:
    x = np.array([-np.inf, -200.0, 0.0, 89.0, np.inf])
    assert _apply(library, "exp", x).tolist() == [0, 0, 1, np.inf, np.inf]
    assert _apply(library, "tanh", x).tolist() == [-1, -1, 0, 1, 1]
    assert _apply(library, "log", np.array([0.0, np.inf, 1.0])).tolist() == [-np.inf, np.inf, 0]
    assert np.isnan(_apply(library, "log", np.array([-1.0, np.nan]))).all()
    assert _apply(library, "clip", np.array([np.nan, -np.inf, np.inf, 0.5])).tolist() == [-1, -1, 1, 0.5]
    assert _apply(library, "to_int", np.array([np.nan, 1e20, -1e20, -2.7])).tolist() == [-(2**30), 2**30, -(2**30), -2]


def test_wrap_stays_inside_its_period(library: ctypes.CDLL) -> None:
    x = np.concatenate([RANDOM.uniform(-1000, 1000, 100_000), RANDOM.uniform(-1e-7, 1e-7, 1000)]).astype(np.float32)
    period = np.full_like(x, 2 * np.pi)
    wrapped = _apply(library, "wrap", x, period)
    assert (wrapped >= 0).all() and (wrapped < period).all()
    distance = np.abs(wrapped - np.mod(x.astype(np.float64), period.astype(np.float64)))
    assert np.minimum(distance, np.abs(period - distance)).max() < 1e-4


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(
    library: ctypes.CDLL, counter: tuple[int, ...], key: int, words: tuple[int, ...]
) -> None:
    """Known answers of Philox4x32-10 from the Random123 distribution."""
    given, result = (ctypes.c_uint * 4)(*counter), (ctypes.c_uint * 4)()
    library.philox_block(given, ctypes.c_ulonglong(key), result)
    assert tuple(result) == words


def test_draws_are_distributed_as_they_should_be(library: ctypes.CDLL) -> None:
    size, count = 300_000, 10
    uniforms, normals = np.empty(size, np.float32), np.empty(size, np.float32)
    integers = np.empty(size, np.int32)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (uniforms, normals, integers)]
    library.draw(ctypes.c_ulonglong(12345), 0, *pointers, count, size)
    assert uniforms.min() >= 0 and uniforms.max() < 1
    assert uniforms.mean() == pytest.approx(0.5, abs=5 / np.sqrt(12 * size))
    assert normals.mean() == pytest.approx(0, abs=5 / np.sqrt(size))
    assert normals.var() == pytest.approx(1, abs=5 * np.sqrt(2 / size))
    observed = np.bincount(integers, minlength=count)
    chi_square = ((observed - size / count) ** 2 / (size / count)).sum()
    assert chi_square < 33.7  # 99.99 % of the distribution with 9 degrees of freedom
    other = np.empty(size, np.float32)
    library.draw(ctypes.c_ulonglong(12345), 1, other.ctypes.data_as(ctypes.c_void_p), *pointers[1:], count, size)
    assert abs(np.corrcoef(uniforms, other)[0, 1]) < 5 / np.sqrt(size)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_to_16_bits_is_torchs(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    exact = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).float()
    between = (exact.double() + exact.sort().values.roll(-1).double()) / 2  # half-way cases, where they are floats
    bits = RANDOM.integers(0, 2**32, 2_000_000, dtype=np.uint32).view(np.float32)
    near = torch.nextafter(between.float(), torch.tensor(torch.inf))
    x = torch.cat([exact, between.float(), near, -near, torch.from_numpy(bits.copy())])
    result = np.empty(len(x), np.uint16)
    function = getattr(library, f"round_to_{str(dtype).removeprefix('torch.')}")
    function(*(ctypes.c_void_p(array.ctypes.data) for array in (x.numpy(), result)), ctypes.c_long(len(x)))
    rounded, expected = torch.from_numpy(result.view(np.int16)), x.to(dtype)
    assert torch.equal(rounded.view(dtype).isnan(), x.isnan())
    numbers = ~x.isnan()
    assert torch.equal(rounded[numbers], expected.view(torch.int16)[numbers])
