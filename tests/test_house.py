"""The house rules that a machine can keep: direction of imports, sizes, lazy imports, packaging."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each may import what stands before it, and itself.
ORDER = [
    "errors", "env", "device", "random", "kernels", "ops", "autograd", "autocast", "tensor_inplace",
    "tensor_reductions", "tensor_shapes", "tensor_methods", "tensor", "tensor_functions",
    "functional", "gradcheck", "nn", "optim", "models", "data", "distributed", "parallel", "train",
    "plan", "learn", "train.py", "cli",
]  # fmt: skip
_COMPILERS = {"jit", "layout", "simd", "vmath", "numba_gpu", "numba_fibers", "numba_intrinsics"}
ONLY_IN = {
    "mpi4py": {"minillm/distributed/comm.py", "minillm/cli/doctor.py"},
    "numba": {f"kernels/runtime/{name}.py" for name in _COMPILERS},
    "llvmlite": {f"kernels/runtime/{name}.py" for name in _COMPILERS - {"jit", "numba_gpu"}},
    "cuda": {"kernels/runtime/nvrtc.py"},
    "cupy": {"minillm/device.py", "kernels/runtime/numba_gpu.py"},
    "cupyx": {"kernels/gelu/reference.py"},
    "torch": set(),
    "transformers": set(),
}


def sources():
    """Tracked-looking Python files of the package and train.py."""
    files = [*(ROOT / "kernels").rglob("*.py"), ROOT / "train.py"]
    package = (ROOT / "minillm").rglob("*.py")
    return sorted({*files, *(p for p in package if "kernels" not in p.relative_to(ROOT).parts)})


def room(path: Path) -> str:
    """Which entry of ORDER a file belongs to."""
    parts = path.relative_to(ROOT).parts
    if parts[0] in ("kernels", "train.py"):
        return parts[0]
    return parts[1].removesuffix(".py")


def imports(path: Path):
    """(imported module, line) for every import in the file that can run, wherever it stands."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guards = [
        n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)
    ]
    for_types = {id(node) for guard in guards for node in ast.walk(guard)}
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module, node.lineno
            if node.module == "minillm":
                yield from ((f"minillm.{alias.name}", node.lineno) for alias in node.names)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    here = room(path)
    if here == "__init__":  # minillm/__init__.py gathers the public names
        return
    for module, line in imports(path):
        if not module.startswith("minillm."):
            continue
        target = module.split(".")[1]
        if target in ORDER:
            assert ORDER.index(target) <= ORDER.index(here), (
                f"{path.relative_to(ROOT)}:{line} imports {module}, which stands above {here}"
            )


@pytest.mark.parametrize("library", ONLY_IN)
def test_library_stays_in_its_room(library):
    found = {
        str(path.relative_to(ROOT))
        for path in sources()
        for module, _ in imports(path)
        if module.split(".")[0] == library
    }
    assert found <= ONLY_IN[library]


def project_files(*suffixes):
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    return [p for p in map(ROOT.__truediv__, done.stdout.split()) if p.suffix in suffixes]


def test_files_stay_small():
    budget = {".py": 300, ".cu": 400, ".cuh": 400, ".h": 400, ".cpp": 400}
    files = project_files(*budget)
    long = {
        str(p.relative_to(ROOT)): n
        for p in files
        if (n := len(p.read_text(encoding="utf-8").splitlines())) > budget[p.suffix]
    }
    assert files and not long


def test_top_level_is_as_designed():
    wanted = {
        "setup.py",
        "README.md",
        "minillm",
        "kernels",
        "tests",
        "tutorials",
        "bench",
        "train.py",
    }
    assert wanted <= {p.name for p in ROOT.iterdir()}
    assert (ROOT / "minillm/kernels").is_symlink()
    assert os.readlink(ROOT / "minillm/kernels") == "../kernels"
    assert not (ROOT / "kernels/__init__.py").exists()


def test_train_is_at_most_250_lines():
    assert len((ROOT / "train.py").read_text().splitlines()) <= 250


def test_import_is_light():
    code = (
        "import sys; import minillm; print(sorted({'numba', 'mpi4py', 'cupy', 'matplotlib', 'rich',"
        " 'tyro', 'tokenizers', 'safetensors', 'pooch', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT) == "[]\n"


def test_the_package_carries_its_kernels(tmp_path):
    pytest.importorskip("setuptools")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-base", tmp_path / "b"],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    built = tmp_path / "b/lib/minillm"
    assert (built / "kernels/layer_norm/cpu.py").exists() and (built / "py.typed").exists()
    for file in ("layer_norm/v1_naive.cu", "runtime/include/types.cuh"):
        assert (built / "kernels" / file).exists()
    emulator = ROOT / "kernels/runtime/emulator"
    carried = {p.name for p in (built / "kernels/runtime/emulator").iterdir()}
    assert {p.name for p in emulator.iterdir() if p.is_file()} <= carried
    assert not (tmp_path / "b/lib/kernels").exists()
