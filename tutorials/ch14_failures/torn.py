"""Kill a program while it saves:  python tutorials/ch14_failures/torn.py naive|safe

The parent starts a child that overwrites a file of 64 MB, kills it (SIGKILL) once a quarter of the
new bytes are there, and looks at what is left.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BLOCK, BLOCKS = b"x" * (1 << 20), 64


def child(file, how):
    """Write the file anew, in place or beside it."""
    target = file.with_suffix(".tmp") if how == "safe" else file
    with target.open("wb") as out:
        for _ in range(BLOCKS):
            out.write(BLOCK)
            out.flush()
            time.sleep(0.005)
        os.fsync(out.fileno())
    target.rename(file)


def main(how):
    """The old file has the letter o in all its bytes, the new one x."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        file.write_bytes(b"o" * len(BLOCK) * BLOCKS)
        saving = subprocess.Popen([sys.executable, __file__, how, str(file)])
        written = file.with_suffix(".tmp") if how == "safe" else file
        quarter = len(BLOCK) * BLOCKS // 4
        while not (written.exists() and quarter <= written.stat().st_size < 3 * quarter):
            time.sleep(0.001)
        saving.send_signal(signal.SIGKILL)
        saving.wait()
        found = file.read_bytes()
        kind = {b"o": "the old file", b"x": "the new file"}[found[:1]]
        whole = len(found) == len(BLOCK) * BLOCKS
        print(f"{how}: {kind}, {'whole' if whole else 'cut short'}")


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else child(Path(sys.argv[2]), sys.argv[1])
