"""Everything that is checked of backdraw: plain `nox` runs it all, `nox -s NAME` one session, `nox -l` lists them."""

import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"  # its pip finds what the user's pip is set up to find
nox.options.reuse_venv = "yes"
nox.options.sessions = [
    "lint",
    "types",
    "tests_numpy",
    "tests_strict",
    "tests_torch",
    "tests_jax",
    "agreement",
    "doctests",
    "build",
    "cupy",
    "gpu",
]

PROJECT = nox.project.load_toml("pyproject.toml")
TORCH = "torch==2.13.0"  # exactly: pip may know a CPU build of this one, and a bare "torch" pulls gigabytes of CUDA
# What pyproject.toml promises; a later Python has wheels of a later NumPy only.
OLDEST_NUMPY = {13: "2.1.0", 14: "2.3.2"}.get(sys.version_info.minor, "2.0.0")
OLDEST = [f"numpy=={OLDEST_NUMPY}", "array-api-compat==1.14.0"]


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group."""
    return nox.project.dependency_groups(PROJECT, name)


def run_pytest(session: nox.Session, backends: str, *args: str, processes: str = "auto", **env: str) -> None:
    """Run pytest on the backends named, each of which must be there."""
    # As many processes as there are cores: compiling, of which JAX does much, takes one core each.
    chosen = args or ("-m", "not gpu")
    session.run("pytest", "-n", processes, *chosen, *session.posargs, env={"BACKDRAW_TEST_BACKENDS": backends, **env})


def need_cuda(session: nox.Session) -> None:
    """Skip the session where there is no CUDA device."""
    found = shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], capture_output=True).stdout
    if not found:
        session.skip("not run: no CUDA device")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and docstrings."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("numpydoc", "lint", *(str(p) for root in ("src", "backends") for p in sorted(Path(root).rglob("*.py"))))


@nox.session
def types(session: nox.Session) -> None:
    """Check types; the array frameworks need not be there."""
    session.install("-e", ".[cli]", *group("lint"))
    session.run("mypy")


@nox.session
@nox.parametrize("versions", ["newest", "oldest"])
def tests_numpy(session: nox.Session, versions: str) -> None:
    """Test with NumPy alone, the newest and the oldest supported."""
    # The newest with what spreads a study over processes and machines, too.
    extra, pinned = ("cli,study", []) if versions == "newest" else ("cli", OLDEST)
    session.install("-e", f".[{extra}]", *group("test"), *pinned)
    run_pytest(session, "numpy")


@nox.session
def tests_strict(session: nox.Session) -> None:
    """Test on array-api-strict, which has nothing that the standard has not."""
    session.install("-e", ".[cli]", *group("test"))
    run_pytest(session, "strict")


@nox.session
def tests_torch(session: nox.Session) -> None:
    """Test on PyTorch."""
    session.install("-e", ".[cli,torch]", TORCH, *group("test"))
    run_pytest(session, "torch")


@nox.session
def tests_jax(session: nox.Session) -> None:
    """Test on JAX, without most of what XLA optimises: `agreement` has it all."""
    session.install("-e", ".[cli,jax]", *group("test"))
    # Nearly all of the time goes to compiling, for each shape anew: like this it is two thirds. Tests of one file share some.
    run_pytest(session, "jax", "-m", "not gpu", "--dist", "loadfile", JAX_DISABLE_MOST_OPTIMIZATIONS="1")


@nox.session
def agreement(session: nox.Session) -> None:
    """Test what takes several frameworks at once: that they agree, that mixing them is refused, what is imported."""
    session.install("-e", ".[cli,torch,jax]", TORCH, *group("test"))
    run_pytest(session, "numpy,strict,torch,jax", "-m", "several and not gpu")
    run_pytest(session, "jax", "tests/backends")
    run_pytest(session, "numpy,strict,torch,jax", "tests/test_import.py")


@nox.session
def doctests(session: nox.Session) -> None:
    """Run the examples in the docstrings, with no other framework than NumPy."""
    session.install("-e", ".[structures]", "pytest")
    # Modules of what is not installed, such as the other adapters, are passed over.
    session.run("pytest", "--doctest-modules", "--doctest-ignore-import-errors", "src", "backends", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and the sdist; install each and look at it from outside the checkout."""
    session.install("build")
    dist = Path(session.create_tmp(), "dist").resolve()
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist))
    check = Path("tests/test_import.py").resolve()
    for archive in (*dist.glob("*.whl"), *dist.glob("*.tar.gz")):
        venv = dist / archive.suffix.strip(".")
        scripts = venv / ("Scripts" if sys.platform == "win32" else "bin")
        python, command = str(scripts / "python"), str(scripts / "backdraw")
        session.run("python", "-m", "venv", str(venv))
        session.run(python, "-m", "pip", "install", "-q", f"{archive}[cli]", "pytest", external=True)
        with session.chdir(dist):
            session.run(python, "-m", "pytest", "--noconftest", "-o", "pythonpath=", str(check), external=True)
            session.run(command, "--help", external=True, silent=True)


@nox.session
def cupy(session: nox.Session) -> None:
    """Test on CuPy."""
    need_cuda(session)
    session.install("-e", ".[cli,cupy]", *group("test"))
    run_pytest(session, "cupy", processes="0")


@nox.session
def gpu(session: nox.Session) -> None:
    """Test CuPy, torch on CUDA and JAX on CUDA, each against NumPy."""
    need_cuda(session)
    session.install("-e", ".[cli,cupy,torch,jax]", "jax[cuda13]", *group("test"))
    run_pytest(session, "numpy,cupy,torch,jax", "-m", "gpu", processes="0")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure ours beside what a user would pick instead."""
    session.install("-e", ".[cli,torch,jax]", TORCH, *group("bench"))
    session.run("pytest", "-s", "-W", "default", "benchmarks", *session.posargs)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the documentation; a public name that it leaves out is an error."""
    session.install("-e", ".", *group("docs"))
    session.run("sphinx-build", "-W", "-b", "html", "docs", "docs/_build/html", *session.posargs)
