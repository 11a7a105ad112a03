"""A disk that can lose its power at any moment, for chapter 14.

What is written is first in memory, and reaches the disk when it is flushed, or earlier, or never:

    disk.write(name, data)      the file has these bytes, in memory
    disk.flush(name)            its bytes are on the disk (fsync of a file)
    disk.rename(old, new)       takes the place of what was called `new`, in memory
    disk.remove(name)
    disk.flush_names()          which names there are is on the disk (fsync of the folder)
    disk.read(name)             what a program sees; KeyError if there is no such file

Each is one operation. `Disk(..., fails_after=n)` raises PowerCut at the n-th. What is then on the
disk is one of several states; `after_the_cut()` gives all that the rules above allow.
"""

from itertools import product


class PowerCut(Exception):
    """The program ends here."""


class Disk:
    """One folder.

    Args:
        files: what is on the disk at the beginning, bytes by name.
        fails_after: number of operations that are done; the next raises PowerCut. None: never.
    """

    def __init__(self, files=(), fails_after=None):
        self.fails_after = fails_after
        self.operations = []
        self._contents = dict(enumerate(dict(files).values()))  # by inode, as programs see them
        self._flushed = dict(self._contents)  # by inode, as they are on the disk
        self._names = dict(zip(dict(files), self._contents))  # name -> inode
        self._states = [dict(self._names)]  # since the names were flushed

    def _operation(self, *what):
        if self.fails_after is not None and len(self.operations) >= self.fails_after:
            raise PowerCut
        self.operations.append(what)

    def write(self, name, data):
        self._operation("write", name)
        if name not in self._names:
            inode = len(self._contents)
            self._names[name] = inode
            self._states.append(dict(self._names))
        self._contents[self._names[name]] = bytes(data)

    def flush(self, name):
        self._operation("flush", name)
        inode = self._names[name]
        self._flushed[inode] = self._contents[inode]

    def rename(self, old, new):
        self._operation("rename", old, new)
        self._names[new] = self._names.pop(old)
        self._states.append(dict(self._names))

    def remove(self, name):
        self._operation("remove", name)
        del self._names[name]
        self._states.append(dict(self._names))

    def flush_names(self):
        self._operation("flush names")
        self._states = [dict(self._names)]

    def read(self, name):
        return self._contents[self._names[name]]

    def names(self):
        """All names, sorted."""
        return sorted(self._names)

    def after_the_cut(self):
        """Every disk that may be found when power is back.

        Names are those of some moment since they were last flushed. Of a file that was not flushed
        since it was written, what is found is what was flushed, or half of the new bytes, or all.
        """
        found = []
        for names in self._states:
            choices = []
            for inode in names.values():
                new, old = self._contents[inode], self._flushed.get(inode, b"")
                choices.append([new] if new == old else [old, new[: len(new) // 2], new])
            for contents in product(*choices):
                found.append(Disk(dict(zip(names, contents))))
        return found
