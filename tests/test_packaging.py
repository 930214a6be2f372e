"""The package as a user installs it: from a wheel, from a source distribution and as an editable checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from test_readme import python_examples

ROOT = Path(__file__).parents[1]
SHIPPED = {"gpu_marl_envs": "gpu_marl_envs", "adapters": "gpu_marl_envs/adapters", "cuda_src": "gpu_marl_envs/cuda_src"}
OPTIONAL = {"matplotlib", "PIL", "pycuda", "pygame", "stable_baselines3", "supersuit", "tensorboard", "tqdm"}
IMPORT_LIMIT = 0.5  # seconds, beyond torch and pettingzoo

pytestmark = pytest.mark.xdist_group("packaging")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The output of a command that must succeed; of this process's Python settings it sees nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}
    result = subprocess.run(command, cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command} failed:\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the distributions are built from, so that building leaves no trace in the repository."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "Makefile", "constraints.txt"):
        shutil.copy(ROOT / path, copy)
    for folder in (*SHIPPED, "benchmarks", "docs", "examples", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def distributions(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, checkout, cwd=folder)
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


def make_venv(folder: Path) -> Path:
    """A virtual environment without this package, which sees the dependencies of the running one; its Python."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    site_packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site_packages, "dependencies.pth").write_text("\n".join(sorted(dependencies)))
    return python


@pytest.fixture(scope="module", params=["wheel", "sdist", "editable"])
def installed(
    request: pytest.FixtureRequest,
    checkout: Path,
    distributions: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The Python of a virtual environment into which the package is installed in one of the three ways."""
    folder = tmp_path_factory.mktemp(request.param)
    python = make_venv(folder / "venv")
    source = ["--editable", checkout] if request.param == "editable" else [distributions[request.param]]
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    run(*pip, "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", *source, cwd=folder)
    return python


def test_the_wheel_holds_exactly_the_package(checkout: Path, distributions: dict[str, Path]) -> None:
    expected = {
        f"{inside}/{path.relative_to(checkout / outside).as_posix()}"
        for outside, inside in SHIPPED.items()
        for path in (checkout / outside).rglob("*")
        if path.suffix in {".py", ".cuh", ".cpp", ".cu", ".h", ".hpp", ".typed"}
    }
    with zipfile.ZipFile(distributions["wheel"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == expected
    assert "gpu_marl_envs/py.typed" in names


def test_the_sdist_holds_what_building_and_testing_need(checkout: Path, distributions: dict[str, Path]) -> None:
    with tarfile.open(distributions["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "Makefile", "constraints.txt", "examples/demo.py"}
    wanted |= {path.relative_to(checkout).as_posix() for path in (checkout / "tests").rglob("*.*")}
    assert wanted <= names


def test_every_kind_of_install_is_the_same(checkout: Path, installed: Path, tmp_path: Path) -> None:
    kernels = checkout / "cuda_src"
    sources = sorted(path.relative_to(kernels).as_posix() for path in kernels.rglob("*.*"))
    program = f"""
import importlib.util
import gpu_marl_envs.adapters
from gpu_marl_envs.sources import sources_folder
folder = sources_folder()
assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == {sources}
assert importlib.util.find_spec("adapters") is None
assert importlib.util.find_spec("cuda_src") is None
assert not str(folder).startswith({str(ROOT)!r})
"""
    run(installed, "-c", program, cwd=tmp_path)
    assert "tag_gridworld-v0" in run(installed.with_name("gpu-marl"), "list", cwd=tmp_path)


@pytest.mark.parametrize("installed", ["wheel"], indirect=True)
def test_a_read_only_install_runs_the_readme(installed: Path, tmp_path: Path) -> None:
    where = "import gpu_marl_envs, pathlib; print(pathlib.Path(gpu_marl_envs.__file__).parent)"
    package = Path(run(installed, "-c", where, cwd=tmp_path).strip())
    files = [path for path in package.rglob("*") if "__pycache__" not in path.parts]
    for path in [package, *files]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    program = python_examples(ROOT / "README.md")[0].code
    run(installed, "-B", "-c", program, cwd=tmp_path, GPU_MARL_ENVS_CACHE=str(tmp_path / "cache"))
    # Permissions do not stop the superuser, so the files are compared as well.
    assert files == [path for path in package.rglob("*") if "__pycache__" not in path.parts]
    assert any((tmp_path / "cache").rglob("*.so"))
    for path in [package, *files]:
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("installed", ["wheel"], indirect=True)
def test_importing_is_quick_and_needs_no_compiler(installed: Path, tmp_path: Path) -> None:
    program = f"""
import sys, time, torch, pettingzoo
before = set(sys.modules)
start = time.perf_counter()
import gpu_marl_envs
print(time.perf_counter() - start)
needless = (set(sys.modules) - before) & {OPTIONAL}
assert not needless, needless
"""
    times = [float(run(installed, "-c", program, cwd=tmp_path, PATH="")) for _ in range(3)]
    assert min(times) < IMPORT_LIMIT


def test_the_python_versions_agree() -> None:
    """The version that tools check against is the oldest that the package supports."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest = project["project"]["requires-python"].removeprefix(">=")
    assert project["tool"]["mypy"]["python_version"] == oldest
    assert project["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
