"""A program killed while it saves:  python tutorials/ch14_failures/torn.py naive|safe

The parent starts a child that overwrites a file of 64 MB and kills itself (SIGKILL, which no
program can catch) once a quarter of the new bytes is written; then it looks at what is left.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

BLOCK, BLOCKS = b"x" * (1 << 20), 64


def child(file, how):
    """Write the file anew, in place or under another name; end at a quarter of it."""
    target = file.with_suffix(".tmp") if how == "safe" else file
    with target.open("wb") as out:
        for number in range(BLOCKS):
            if number == BLOCKS // 4:
                os.kill(os.getpid(), signal.SIGKILL)
            out.write(BLOCK)
            out.flush()
        os.fsync(out.fileno())
    target.rename(file)


def main(how):
    """The old file has the letter o in all its bytes, the new one x."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        file.write_bytes(b"o" * len(BLOCK) * BLOCKS)
        subprocess.run([sys.executable, __file__, how, str(file)])
        found = file.read_bytes()
        kind = {b"o": "the old file", b"x": "the new file"}[found[:1]]
        whole = len(found) == len(BLOCK) * BLOCKS
        print(f"{how}: {kind}, {'whole' if whole else 'cut short'}")


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else child(Path(sys.argv[2]), sys.argv[1])
