"""What the emulator compiles and keeps: damaged, moved, not writable; compilers; many at once.

Each case is a process of its own with a cache of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minillm.kernels.runtime import emulator
from minillm.kernels.runtime.emulator import build

pytestmark = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")

ROOT = Path(__file__).parents[3]
SOURCE = """constexpr int THREADS = 32;
__global__ void add(float* y, float a) {
    y[threadIdx.x] += a;
}
"""
LAUNCH = """
import pathlib, sys
import numpy as np
from minillm.errors import UserError
from minillm.kernels.runtime.cuda import Program
program, y = Program(pathlib.Path(sys.argv[1])), np.zeros(32, np.float32)
def add(y=y, n=1):
    for _ in range(n):
        program.launch("add", y.dtype, 1, y, 1.0)
    return y
"""
ADD = LAUNCH + "add(); assert (y == 1).all()"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A cache that has the runtime."""
    cache = tmp_path_factory.mktemp("built")
    code = "from minillm.kernels.runtime.emulator import build; build.runtime_library()"
    said(code + "; build._include_folder()", "", cache)
    return cache


@pytest.fixture
def cache(built, tmp_path):
    return shutil.copytree(built, tmp_path / "a cache")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "my kernels" / "add one.cu"
    path.parent.mkdir()
    path.write_text(SOURCE)
    return path


def start(code, source, cache, **variables):
    return subprocess.Popen(
        [sys.executable, "-c", code, str(source)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MINILLM_CACHE": str(cache), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(code, source, cache, **variables):
    """What a process that must succeed said."""
    process = start(code, source, cache, **variables)
    try:
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return out + errors


def libraries(cache):
    return sorted(cache.glob("emulator/*/*.so"))


def test_damaged_libraries_are_compiled_again(source, cache):
    said(ADD, source, cache)
    assert len(libraries(cache)) == 2
    for path in libraries(cache):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    words = said(ADD, source, cache)
    assert words.count("is damaged: compiled again") == 2
    assert said(ADD, source, cache) == ""


def test_a_cache_that_moved_has_one_runtime(source, cache, tmp_path):
    said(ADD, source, cache)
    shutil.copytree(cache, tmp_path / "after")
    assert said(ADD, source, tmp_path / "after") == ""
    shutil.rmtree(cache)
    assert said(ADD, source, tmp_path / "after") == ""


def test_where_nothing_can_be_kept_it_says_so_and_works(source, tmp_path):
    (tmp_path / "file").write_text("")
    words = said(ADD, source, tmp_path / "file" / "cache")
    assert words.count("what the emulator compiles is not kept: ") == 1


def test_processes_that_build_at_once(source, tmp_path):
    started = [start(ADD, source, tmp_path / "cache") for _ in range(2)]
    for process in started:
        assert process.communicate(timeout=100) == ("", "") and process.returncode == 0
    assert len(libraries(tmp_path / "cache")) == 2


def test_a_fault_in_a_path_with_spaces_has_its_line(source, cache):
    code = LAUNCH + (
        "try: add(y[:31])\nexcept RuntimeError as error: assert 'add one.cu:3' in str(error), error"
    )
    said(code, source, cache)


def test_a_compiler_with_flags(monkeypatch):
    monkeypatch.setenv("CXX", "g++ -m64")
    build.compiler.cache_clear()
    try:
        assert build.compiler() == (shutil.which("g++"), "-m64")
    finally:
        build.compiler.cache_clear()


def test_another_compiler_is_refused_in_one_line(source, tmp_path):
    clang = tmp_path / "clang++"
    clang.write_text("#!/bin/sh\necho '#define __GNUC__ 4'; echo '#define __clang__ 1'\n")
    clang.chmod(0o755)
    code = LAUNCH + "try: add()\nexcept UserError as error: print(error)"
    words = said(code, source, tmp_path / "cache", CXX=str(clang))
    assert words == (
        f"the CUDA emulator needs GNU g++, which {clang} is not: install it, or name it with CXX\n"
    )


def test_threads_and_forks_launch_at_once(source, cache):
    code = (
        LAUNCH
        + """
import os, threading
add(np.zeros_like(y))  # loaded before anything forks
arrays = [np.zeros(32, np.float32) for _ in range(4)]
threads = [threading.Thread(target=add, args=(a, 200)) for a in arrays]
for thread in threads: thread.start()
for _ in range(5):  # while the others launch
    child = os.fork()
    if not child:
        add(n=3)
        os._exit(0 if (y == 3).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
for thread in threads: thread.join()
assert all((a == 200).all() for a in arrays), arrays
"""
    )
    said(code, source, cache)
