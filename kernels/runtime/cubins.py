"""What a cubin is made of: registers, memory and instructions of each kernel. Needs no GPU.

In: machine code from nvrtc.py. Out: a `Usage` a kernel, read by NVIDIA's cuobjdump and nvdisasm
(from the extra `toolkit`, or on the PATH).
"""

import functools
import json
import re
import shutil
import subprocess
import tempfile
from importlib import metadata
from typing import NamedTuple

_LOCAL = ("LDL", "STL")
_RESERVED = 1024  # bytes that cuobjdump counts to a block's shared memory where CUDA takes them


class Usage(NamedTuple):
    """What one kernel uses.

    Attributes:
        registers: a thread.
        stack: bytes of local memory a thread: spilled registers, arrays indexed by a variable.
        shared: bytes of static shared memory a block.
        opcodes: its instructions in order, with modifiers and without operands: "LDG.E.128".
    """

    registers: int
    stack: int
    shared: int
    opcodes: tuple[str, ...]

    @property
    def spills(self) -> int:
        """Instructions that load from or store to local memory."""
        return sum(opcode.partition(".")[0] in _LOCAL for opcode in self.opcodes)


def has_tools() -> bool:
    """Whether cubins can be read here."""
    return bool(_tool("cuobjdump") and _tool("nvdisasm"))


@functools.cache
def _tool(name: str) -> str | None:
    """The tool of the wheel nvidia-cuda-NAME, or of a toolkit on the PATH."""
    try:
        files = metadata.files(f"nvidia-cuda-{name}") or []
    except metadata.PackageNotFoundError:
        files = []
    installed = [str(file.locate()) for file in files if file.name == name]
    return installed[0] if installed else shutil.which(name)


def _run(tool: str, *args: str) -> str:
    command = [_tool(tool), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def inspect(image: bytes) -> dict[str, Usage]:
    """Usage of each kernel of a cubin, by its name in the image."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(image)
        file.flush()
        resources = _run("cuobjdump", "--dump-resource-usage", file.name)
        _, functions = json.loads(_run("nvdisasm", "--emit-json", file.name))
    opcodes = {
        function["function-name"]: tuple(i["opcode"] for i in function["sass-instructions"])
        for function in functions
    }
    found = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", resources)
    taken = _RESERVED if b".nv.shared.reserved." in image else 0  # from sm_90 on
    return {
        name: Usage(int(registers), int(stack), max(0, int(shared) - taken), opcodes[name])
        for name, registers, stack, shared in found
    }
