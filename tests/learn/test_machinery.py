"""What exercises are made of, on a chapter as small as it can be (example/ch42_example)."""

from pathlib import Path

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.functional import layer_norm
from minillm.kernels import registry
from minillm.learn import Mistake, Plug, Wrong, chapters, desk, expect, holes, refuses, same
from minillm.learn.judge import judge, load
from minillm.learn.plug import plugged
from tests.learn.answers import judged
