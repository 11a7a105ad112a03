"""GPU: driver, CuPy, numba-cuda, and whether the three mean the same CUDA; NVRTC, which compiles
our .cu files, and what runs them without a GPU. Training on the CPU needs none of it, so nothing
here is worse than a warning."""

import re
import shlex
import sys
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from minillm.cli.checks import PIP, Finding
from minillm.cli.checks.process import run
from minillm.kernels.runtime.emulator import available

_DRIVER = """
import ctypes
library, version = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
assert library.cuDriverGetVersion(ctypes.byref(version)) == 0
print(version.value)
"""

# CuPy imports without a driver and fails at the first array: so make one.
_FIRST_ARRAY = """
import cupy
assert cupy.cuda.is_available(), "CuPy finds no usable GPU"
assert int(cupy.arange(5).sum()) == 10
print(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
"""

# Compiles a kernel, for the GPU that is here if an argument says that there is one.
_NVRTC = """
import pathlib, sys, tempfile
from minillm import UserError, env
from minillm.kernels.runtime import nvrtc
arch = "sm_80"
if sys.argv[1:]:
    import cupy
    arch = nvrtc.arch_of_device()
with tempfile.TemporaryDirectory() as folder:
    env.CACHE = pathlib.Path(folder)
    source = env.CACHE / "probe.cu"
    source.write_text("__global__ void probe() {}")
    try:
        nvrtc.compile(source, ("probe",), arch)
    except UserError as error:
        sys.exit(str(error))
print(nvrtc.version(), arch)
"""


@dataclass(frozen=True)
class GPUState:
    """What there is to judge.

    Attributes:
        hardware: an NVIDIA card is in the machine.
        driver: newest CUDA that the driver runs, as 12080 for 12.8; None without a driver.
        installed: distributions by name, with versions.
        name: of the GPU on which CuPy made an array; empty if it could not.
        error: why it could not.
        nvrtc: version of NVRTC; empty if it could not compile a kernel.
        arch: for which it compiled it: that of the GPU, if CuPy found one.
        nvrtc_error: why it could not.
        emulator: g++ is there, with which .cu files run on the CPU.
    """

    hardware: bool
    driver: int | None
    installed: dict[str, str]
    name: str = ""
    error: str = ""
    nvrtc: str = ""
    arch: str = ""
    nvrtc_error: str = ""
    emulator: bool = True

    @property
    def cupy(self) -> list[str]:
        """The installed CuPy distributions; more than one overwrite each other."""
        return sorted(n for n in self.installed if re.fullmatch(r"cupy(-cuda\d+x)?", n))


def check_gpu() -> list[Finding]:
    """Look at this machine and judge."""
    state = look()
    return [*judge(state), judge_cuda_cpp(state)]


def look() -> GPUState:
    """Collect the state of this machine."""
    asked = run([sys.executable, "-c", _DRIVER], 30)
    driver = int(asked.output) if asked.code == 0 else None
    installed = {d.name.lower().replace("_", "-"): d.version for d in metadata.distributions()}
    emulator = available()
    state = GPUState(_has_card(), driver, installed, emulator=emulator)
    if driver is not None and state.cupy:
        probe = run([sys.executable, "-c", _FIRST_ARRAY], 120)
        if probe.code == 0:
            state = replace(state, name=probe.output.strip())
        else:
            error = "no answer within 120 s" if probe.code is None else probe.last_line
            state = replace(state, error=error)
    probe = run([sys.executable, "-c", _NVRTC, *(["gpu"] if state.name else [])], 120)
    if probe.code == 0:
        version, arch = probe.output.split()
        return replace(state, nvrtc=version, arch=arch)
    error = "no answer within 120 s" if probe.code is None else probe.last_line
    return replace(state, nvrtc_error=error)


def _has_card() -> bool:
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
        except OSError:
            continue
        if vendor.strip() == "0x10de" and kind.startswith("0x03"):  # NVIDIA, display controller
            return True
    return False


def judge(state: GPUState) -> list[Finding]:
    """Findings of a state; a laptop without a GPU is fine."""
    if state.driver is None:
        if not state.hardware:
            unused = f" ({state.cupy[0]} is installed but unused)" if state.cupy else ""
            return [Finding("ok", "gpu", f"no GPU, CPU only{unused}")]
        fix = "sudo ubuntu-drivers install  # in a container: start it with --gpus all"
        return [Finding("warn", "gpu", "an NVIDIA card, but no driver (libcuda.so.1)", fix)]
    major, minor = state.driver // 1000, state.driver % 1000 // 10
    if major < 12:
        what = f"the driver runs CUDA {major}.{minor}; CuPy's wheels need 12 or newer"
        return [Finding("warn", "gpu", what, "sudo ubuntu-drivers install")]
    extra = f"cuda{min(major, 13)}"
    install = f"{PIP} install {_requirement(extra)}"
    if not state.cupy:
        what = f"a driver for CUDA {major}.{minor}, but CuPy is not installed"
        return [Finding("warn", "gpu", what, install)]
    if len(state.cupy) > 1:
        what = f"{' and '.join(state.cupy)} overwrite each other"
        fix = f"{PIP} uninstall -y {' '.join(state.cupy)} && {install}"
        return [Finding("warn", "CuPy", what, fix)]
    wheel = state.cupy[0]
    known = re.search(r"\d+", wheel)
    cuda = int(known.group()) if known else None
    if cuda is not None and cuda > major:
        what = f"{wheel} needs CUDA {cuda}; the driver runs {major}.{minor}"
        return [Finding("warn", "CuPy", what, f"{PIP} uninstall -y {wheel} && {install}")]
    if state.error:
        fix = f"{PIP} install --force-reinstall {_requirement(f'cuda{cuda}' if cuda else extra)}"
        return [Finding("warn", "CuPy", f"imports, but cannot compute: {state.error}", fix)]
    what = f"{state.name}, driver for CUDA {major}.{minor}, {wheel} {state.installed[wheel]}"
    return [Finding("ok", "gpu", what), _judge_numba_cuda(state, cuda or major)]


def _judge_numba_cuda(state: GPUState, cuda: int) -> Finding:
    """numba-cuda without an extra takes the newest cuda-bindings, whatever CuPy's CUDA is."""
    fix = f"{PIP} install 'numba-cuda[cu{cuda}]'"
    version = state.installed.get("numba-cuda")
    if version is None:
        return Finding("warn", "numba-cuda", "not installed", fix)
    bindings = state.installed.get("cuda-bindings")
    if bindings is None or int(bindings.partition(".")[0]) != cuda:
        what = f"cuda-bindings {bindings or 'missing'} beside a CuPy for CUDA {cuda}"
        return Finding("warn", "numba-cuda", what, f"{fix} 'cuda-bindings=={cuda}.*'")
    return Finding("ok", "numba-cuda", f"{version} with cuda-bindings {bindings}")


def judge_cuda_cpp(state: GPUState) -> Finding:
    """Whether our .cu files can be compiled for the GPU that is here, or what else runs them."""
    emulated = "g++ runs them on the CPU" if state.emulator else "no g++ to run them on the CPU"
    if state.nvrtc:
        what = f"NVRTC {state.nvrtc} compiles the .cu files for {state.arch}; {emulated}"
        return Finding("ok", "CUDA C++", what)
    if state.name:
        cuda = min(state.driver // 1000, 13)
        fix = f"{PIP} install {_requirement(f'cuda{cuda}')}"
        return Finding("warn", "CUDA C++", f"for {state.name}: {state.nvrtc_error}", fix)
    if "cuda-bindings" not in state.installed:
        what = f"NVRTC, which compiles the .cu files for a GPU, is not installed; {emulated}"
        return Finding("ok", "CUDA C++", what)
    fix = f"{PIP} install --force-reinstall {_requirement('toolkit')}"
    return Finding("warn", "CUDA C++", state.nvrtc_error, fix)


def _requirement(extra: str) -> str:
    """This checkout or, where it is installed from elsewhere, the distribution, with an extra."""
    root = Path(__file__).parents[3]
    if (root / "setup.py").exists():
        return f"-e {shlex.quote(f'{root}[{extra}]')}"
    return f"'minillm[{extra}]'"
