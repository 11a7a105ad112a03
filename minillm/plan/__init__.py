"""How a model would train on a cluster: time of a step, memory of a rank, before any run.

    model = Model(GPTConfig(...), "bfloat16")              what there is to compute and to keep
    cluster = published("h100")                            or `calibrated()`: measured here
    plans = search(model, cluster, ranks=64, batch=512)    the layouts that fit, the fastest first
    print(plans[0].layout, plans[0].seconds)

An alpha-beta model: each message costs a latency and its bytes over a bandwidth (links.py), each
kernel an overhead, its operations over the rate of matrix products, and its bytes over the rate of
memory (workload.py). Nothing is simulated, and no network is ever congested: what it predicts for a
cluster that it was not calibrated on is a bound to aim at. `bench/plan_check.py` compares it with
runs, tests/plan/test_published.py with published ones; command.py says how to run what was found.
"""

from minillm.plan.calibration import calibrate, calibrated
from minillm.plan.clusters import CLUSTERS, Cluster, published
from minillm.plan.layout import Layout
from minillm.plan.links import Link
from minillm.plan.predict import Prediction, predict
from minillm.plan.search import scaling, search
from minillm.plan.workload import Model

__all__ = [
    "CLUSTERS",
    "Cluster",
    "Layout",
    "Link",
    "Model",
    "Prediction",
    "calibrate",
    "calibrated",
    "predict",
    "published",
    "scaling",
    "search",
]
