"""Checks, hints and wrong answers of chapter 19."""

from minillm.learn import Exercise, Wrong, expect, refuses, same

FILES = ("planning.py",)


def check_step(work):
    step = work.data_parallel_step
    same(
        "one rank: 1e9 parameters, 1e6 tokens, 1e14 FLOP/s", step(1e9, 1e6, 1, 1e14, 1, 1), (60, 0)
    )
    # 4 ranks: computing 15 s, backward 10 s; the ring 6 messages and 1.5 times 4 GB.
    same("4 ranks, a ring that hides", step(1e9, 1e6, 4, 1e14, 1e-6, 1e9), (15.0, 0.0))
    same(
        "4 ranks, 6 s of ring at 0.5 GB/s and 4 s of latency",
        step(1e9, 1e6, 4, 1e14, 4 / 6, 0.5e9),
        (15 + 6.0, 6.0),
    )
    same(
        "2 ranks, 2 bytes a gradient",
        step(1e9, 1e6, 2, 1e14, 0.0, 0.05e9, 2),
        (30 + 20.0, 20.0),
    )
    same(
        "2 ranks, latency alone",
        step(1.0, 1.0, 2, 1e18, 0.5, 1e18),
        (1.0, 1.0),
    )


# Rajbhandari et al. 2020, figure 1: 7.5 B parameters on 64 GPUs, in GB.
_ZERO = {0: 120.0, 1: 31.40625, 2: 16.640625, 3: 1.875}


def check_memory(work):
    for zero, wanted in _ZERO.items():
        got = work.state_bytes(7.5e9, 64, 1, 1, zero) / 1e9
        same(f"GB of 7.5 B parameters on 64 ranks, zero={zero}", got, wanted)
    for zero, wanted in enumerate((1.6e9, 0.7e9, 0.55e9, 0.4e9)):
        same(f"dp=4, tp=2, pp=5, zero={zero}", work.state_bytes(1e9, 4, 2, 5, zero), wanted)
    same(
        "10 parameters, 2 + 4 + 8 bytes, dp=2, zero=2",
        work.state_bytes(10, 2, 1, 1, 2, 2, 4, 8),
        80,
    )
    same("10 parameters on tp=3, 16 bytes each", work.state_bytes(10, 1, 3, 1, 0), 160 / 3)


def check_grid(work):
    def memory(dp, tp, pp):
        return 960.0 / (tp * pp)

    def grid(ranks, seconds, heads=12, layers=24, batch=64, devices=8, limit=1e9):
        return tuple(
            work.fastest_grid(ranks, heads, layers, batch, devices, seconds, memory, limit)
        )

    def copies(dp, tp, pp):
        return 1 / dp

    def split(dp, tp, pp):
        return 1 / tp + 0.01 * pp

    def stages(dp, tp, pp):
        return 1 / pp

    def expected(what, got, wanted):
        expect(got == wanted, f"{what}: (dp, tp, pp) is {got}, expected {wanted}")

    expected("16 ranks, dp the fastest", grid(16, copies), (16, 1, 1))
    expected(
        "16 ranks, room for 1/8, of equals the first", grid(16, copies, limit=120.0), (2, 1, 8)
    )
    expected("128 ranks, a batch of 64", grid(128, copies), (64, 1, 2))
    expected("12 heads, nodes of 8, tp the fastest", grid(16, split), (4, 4, 1))
    expected("12 ranks, 12 heads, nodes of 8, tp the fastest", grid(12, split), (3, 4, 1))
    expected("12 heads, nodes of 3, tp the fastest", grid(6, split, devices=3), (2, 3, 1))
    expected("20 layers, pp the fastest", grid(48, stages, layers=20), (3, 1, 16))
    expected("24 layers, 24 ranks, pp the fastest", grid(24, stages), (1, 1, 24))
    expected("1 rank", grid(1, copies), (1, 1, 1))
    refuses("16 ranks with room for less than 1/16", grid, 16, copies, 12, 24, 64, 8, 10.0)
    refuses("7 ranks, 4 layers, a batch of 2", grid, 7, copies, 12, 4, 2)


def check_bill(work):
    got = work.bill(1e9, 20e9, 8, 1e15, 0.4, 1.0, 2.0, 700)
    seconds = 1.2e20 / (8 * 4e14)
    same(
        "1 B parameters, 20 B tokens, 8 devices",
        got,
        (seconds / 86400, 16 * seconds / 3600, 8 * seconds / 3600 * 700 / 1e6),
    )
    half = work.bill(1e9, 20e9, 8, 1e15, 0.4, 0.5, 2.0, 700)
    same("the same with half of the time useful", half, tuple(2 * value for value in got))
    days, money, energy = work.bill(1e9, 20e9, 16, 1e15, 0.4, 1.0, 2.0, 700)
    same("twice the devices: days", days, got[0] / 2)
    same("twice the devices: money and energy", (money, energy), got[1:])


EXERCISES = (
    Exercise(
        "The step of p copies",
        check_step,
        hints=(
            "Two clocks run at once during backward: computing and the ring.",
            "Backward is 4 of 6 operations. The ring sends 2 (p - 1) messages of a p-th of the"
            " gradients each. What exceeds backward is exposed.",
            "ring = 2 (p - 1) latency + 2 (p - 1) / p * grad_bytes * parameters / bandwidth;"
            " exposed = max(0, ring - backward).",
        ),
        wrong=(
            Wrong("no overlap", "ring - backward", "ring", says="4 ranks, a ring that hides[0]"),
            Wrong(
                "half a ring",
                "2 * (p - 1) / p * grad_bytes",
                "(p - 1) / p * grad_bytes",
                says="4 ranks, 6 s of ring",
            ),
            Wrong(
                "the latency once",
                "2 * (p - 1) * latency",
                "latency",
                says="4 ranks, 6 s of ring",
            ),
            Wrong(
                "hidden behind forward, too",
                "ring - backward",
                "ring - computing",
                says="4 ranks, 6 s of ring",
            ),
            Wrong(
                "every rank computes all", "(p * rate)", "rate", says="4 ranks, a ring that hides"
            ),
        ),
    ),
    Exercise(
        "The memory of a rank",
        check_memory,
        hints=(
            "Tensor and pipeline parallelism split everything; ZeRO splits by dp, kind by kind.",
            "parameters / (tp * pp) of each kind; divide the optimiser's by dp from stage 1,"
            " gradients from stage 2, weights from stage 3.",
            "part * (weight / (dp if zero >= 3 else 1) + grad / (dp if zero >= 2 else 1) + ...).",
        ),
        wrong=(
            Wrong(
                "gradients are split in stage 1",
                "dp if zero >= 2 else 1",
                "dp if zero >= 1 else 1",
                says="zero=1 is 16.64062, expected 31.40625",
            ),
            Wrong(
                "weights are never split",
                "dp if zero >= 3 else 1",
                "1",
                says="zero=3 is 16.64062, expected 1.875",
            ),
            Wrong(
                "pp is forgotten",
                "parameters / (tp * pp)",
                "parameters / tp",
                says="dp=4, tp=2, pp=5, zero=0",
            ),
            Wrong("dp splits without ZeRO", "zero >= 1", "zero >= 0", says="zero=0 is"),
            Wrong(
                "gradients as large as weights", "kept += grad", "kept += weight", says="2 + 4 + 8"
            ),
            Wrong("half a parameter", "parameters / (", "parameters // (", says="on tp=3"),
        ),
    ),
    Exercise(
        "The fastest grid that fits",
        check_grid,
        hints=(
            "There are few grids: one for each tp and pp whose product divides the ranks.",
            "Skip what may not be: heads % tp, devices % tp, pp > layers, dp > batch, memory over"
            " the limit. Keep the fastest.",
            "best = None; for tp ...: for pp ...: if ranks % (tp * pp) or ...: continue; compare"
            " with `<`, so that the first of equals stays.",
        ),
        wrong=(
            Wrong(
                "heads are cut", "heads % tp or ", "", says="12 heads, nodes of 8, tp the fastest"
            ),
            Wrong("tp leaves the node", "devices % tp or ", "", says="12 heads, nodes of 8, tp"),
            Wrong(
                "tp does not divide the node",
                "devices % tp or ",
                "tp > devices or ",
                says="12 ranks, 12 heads, nodes of 8, tp the fastest: (dp, tp, pp) is (2, 6, 1)",
            ),
            Wrong(
                "a layer a stage is too few",
                "pp > layers",
                "pp >= layers",
                says="24 layers, 24 ranks",
            ),
            Wrong(
                "of equals the last",
                "seconds(*grid) < seconds",
                "seconds(*grid) <= seconds",
                says="of equals the first",
            ),
            Wrong("stages without layers", "pp > layers or ", "", says="20 layers, pp the fastest"),
            Wrong("copies without samples", " or grid[0] > batch", "", says="a batch of 64"),
            Wrong("what does not fit", "memory(*grid) <= limit and", "", says="room for 1/8"),
            Wrong(
                "the slowest",
                "seconds(*grid) < seconds",
                "seconds(*grid) > seconds",
                says="16 ranks",
            ),
        ),
    ),
    Exercise(
        "Days, money, energy",
        check_bill,
        hints=(
            "How many operations does the run need, and how many useful ones a second does it get?",
            "6 parameters tokens over ranks * peak * mfu * goodput, in seconds. Money and energy"
            " are of device hours, ranks * seconds / 3600.",
            "(seconds / 86400, hours * price, hours * watts / 1e6): watt hours in a MWh: 1e6.",
        ),
        wrong=(
            Wrong("only forward", "seconds = 6 *", "seconds = 2 *", says="1 B parameters"),
            Wrong("failures are free", " * goodput", "", says="half of the time useful"),
            Wrong(
                "one device pays",
                "hours = ranks * seconds",
                "hours = seconds",
                says="1 B parameters",
            ),
            Wrong("kWh", "/ 1e6", "/ 1e3", says="8 devices[2]"),
        ),
    ),
)
