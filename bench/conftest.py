"""The machine's limits, measured once a session, and the table at its end."""

import pytest

from bench import machine

_RESULTS = pytest.StashKey[list]()
_LIMITS = pytest.StashKey["LimitsOfSession"]()


class LimitsOfSession:
    """The limits; the GEMM rate can only be corrected upwards."""

    def __init__(self):
        self.value = machine.measure()

    def measure_again(self) -> None:
        gemm = max(self.value.gemm, machine.gemm_rate(2.0))
        self.value = machine.Limits(self.value.copy, gemm)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    config.stash[_RESULTS] = []
    if not config.getoption("benchmark_verbose"):
        config.option.benchmark_quiet = True  # the table below instead


@pytest.fixture(scope="session")
def limits(pytestconfig):
    pytestconfig.stash[_LIMITS] = LimitsOfSession()
    return pytestconfig.stash[_LIMITS]


@pytest.fixture(scope="session")
def results(pytestconfig):
    return pytestconfig.stash[_RESULTS]


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["minillm"] = machine.describe()


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[_RESULTS]
    if not rows:
        return
    limits = config.stash[_LIMITS].value
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
