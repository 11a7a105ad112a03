"""The machine's limits, measured at both ends of a session, and the table after it."""

import minillm  # noqa: F401  isort: skip - before NumPy: it sets the threads of the BLAS
import pytest

from bench import machine


class BenchSession:
    """What the benchmarks of a session share.

    Attributes:
        limits: of this machine, as far as is known; they only ever rise.
        results: the extra_info of each benchmark.
    """

    def __init__(self):
        self.limits = machine.measure()
        self.results: list[dict] = []

    def measure_again(self) -> None:
        """Look whether the machine can do better than it could before."""
        self.limits = self.limits.or_better(machine.measure())

    def fill_in_shares(self) -> None:
        """Set every result beside the limits, which are final now."""
        copy, gemm = self.limits.copy, self.limits.gemm
        for info in self.results:
            share, bound = self.limits.share(info["bytes"], info["flops"], info["seconds"])
            info.update(
                copy_gbs=copy / 1e9,
                gemm_gflops=gemm / 1e9,
                copy_share=info["gbs"] * 1e9 / copy,
                gemm_share=info["gflops"] * 1e9 / gemm,
                limit_share=share,
                bound=bound,
                # Faster than memory: the data stayed in a cache from one call to the next.
                cached=info["gbs"] * 1e9 > copy,
            )


_SESSION = pytest.StashKey[BenchSession]()


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads the option
def pytest_configure(config):
    if not config.getoption("benchmark_verbose"):
        config.option.benchmark_quiet = True  # the table below instead


@pytest.fixture(scope="session")
def bench_session(pytestconfig):
    session = pytestconfig.stash[_SESSION] = BenchSession()
    yield session
    session.measure_again()
    session.fill_in_shares()


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["minillm"] = machine.describe()


def pytest_terminal_summary(terminalreporter, config):
    session = config.stash.get(_SESSION, None)
    if session is None or not session.results:
        return
    rows, limits = session.results, session.limits
    write = terminalreporter.write_line
    terminalreporter.section(f"{rows[0]['dtype']}, {rows[0]['threads']} threads")
    write(f"limits: copy {limits.copy / 1e9:.1f} GB/s, GEMM {limits.gemm / 1e9:.1f} GFLOP/s")
    write("% of limit: time at the limit that binds (copy or GEMM) over time taken; * from cache")
    group = None
    for row in rows:
        if group != (group := f"{row['kernel']}  {row['shape']}"):
            write(f"\n{group}")
        write(
            f"  {row['implementation']:<14} {row['seconds'] * 1e3:9.3f} ms"
            f" {row['gbs']:8.1f} GB/s{'*' if row['cached'] else ' '}"
            f" {row['gflops']:8.1f} GFLOP/s {row['limit_share']:6.0%} of {row['bound']}"
            f"   error {row['max_error']:.0e}"
        )
