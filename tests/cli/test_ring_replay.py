"""`minillm ring-replay`: the messages of a real ring, all of them, and a page that is whole."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from statistics import fmean
from xml.etree import ElementTree

import pytest

from minillm.cli import ring_page, ring_replay
from minillm.cli.ring_replay import record
from minillm.distributed import reduction, run_threads
from minillm.errors import UserError
from minillm.plan.links import Link
from tests.programs import minillm, mpirun

VOID = {"meta", "input", "br", "link", "img"}


@pytest.fixture(scope="module", params=[(2, 1), (3, 1), (3, 4), (4, 2)], ids=str)
def replay(request):
    """An all-reduce of an odd length on threads: (ranks, pieces a chunk)."""
    ranks, pieces = request.param
    n = 4 * ranks * pieces * 25 - 1
    before, reduction.PIECE_BYTES = reduction.PIECE_BYTES, 400
    try:
        found = run_threads(ranks, lambda comm: record(comm, n))
    finally:
        reduction.PIECE_BYTES = before
    assert found[1:] == [None] * (ranks - 1)
    assert (found[0].ranks, found[0].pieces, found[0].nbytes) == (ranks, pieces, 4 * n)
    return found[0]


def test_every_message_of_the_ring_is_there_once(replay):
    p = replay.ranks
    assert len(replay.transfers) == 2 * p * (p - 1) * replay.pieces
    seen = {(t.source, t.step, t.chunk, t.piece) for t in replay.transfers}
    expected = {
        (r, s, (r - 1 - s) % p, piece)  # as ring.py says
        for r in range(p) for s in range(2 * p - 2) for piece in range(replay.pieces)
    }  # fmt: skip
    assert seen == expected
    assert all(t.dest == (t.source + 1) % p for t in replay.transfers)
    assert sum(t.nbytes for t in replay.transfers) == 2 * (p - 1) * replay.nbytes


def test_sums_grow_to_all_ranks(replay):
    p = replay.ranks
    one = {(r, c, i): 1 for r in range(p) for c in range(p) for i in range(replay.pieces)}
    for t in sorted(replay.transfers, key=lambda t: t.used):
        before = one[t.source, t.chunk, t.piece]
        assert t.summed == (before + 1 if t.step < p - 1 else before)
        one[t.dest, t.chunk, t.piece] = t.summed
    assert set(one.values()) == {p}


def test_times_are_in_order(replay):
    assert min(replay.began) == 0
    for t in replay.transfers:
        assert replay.began[t.source] <= t.posted <= t.arrived <= t.used <= replay.ended[t.dest]
        assert t.posted <= t.free <= replay.ended[t.source]
        assert t.waited is None or t.due <= t.waited <= t.arrived
        assert t.step < replay.ranks - 1 or t.used == t.arrived


def test_steps_add_up_to_the_whole(replay):
    took = fmean(b - a for a, b in zip(replay.began, replay.ended))
    assert sum(ring_page.measured(replay)) == pytest.approx(took)
    link = replay.busy
    assert sum(ring_page.predicted(replay)) == pytest.approx(link.ring(replay.ranks, replay.nbytes))
    assert link.latency > 0 and link.bandwidth > 0 and replay.alone.adding > 0


class Tags(HTMLParser):
    """Raises where tags do not close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.found = [], []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(replay):
    text = ring_page.page(replay)
    assert "{{" not in text and "}}" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert not tags.open
    assert not [a for _, a in tags.found if {"src", "href"} & a.keys()]
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    ids = [a["id"] for _, a in tags.found if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'\$\("([\w-]+)"\)', text))
    assert wanted <= set(ids)


def test_the_drawings_are_there_without_scripts(replay):
    text = ring_page.page(replay)
    drawings = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.S)]
    circle, gantt, steps = drawings
    p, messages = replay.ranks, len(replay.transfers)
    assert len([e for e in circle.iter() if e.get("class") == "sum"]) == p * p
    kinds = [e.get("class") for e in gantt.iter("g")]
    assert kinds.count("scatter") == kinds.count("gather") == messages  # both ends
    assert kinds.count("add") <= messages / 2
    assert len([e for e in steps.iter() if e.get("class") == "expected"]) == 2 * p - 2
    for drawing in drawings:
        _, _, width, height = map(float, drawing.get("viewBox").split())
        for rect in drawing.iter("rect"):
            x, y, w, h = (float(rect.get(k)) for k in ("x", "y", "width", "height"))
            assert x >= 0 and x + w <= width and y >= 0 and y + h <= height


def test_the_data_of_the_script_are_the_messages(replay):
    text = ring_page.page(replay)
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.S)[1])
    assert data["ranks"] == replay.ranks and len(data["transfers"]) == len(replay.transfers)
    assert data["transfers"][0][:7] == [
        getattr(replay.transfers[0], name)
        for name in ("source", "dest", "step", "chunk", "piece", "nbytes", "summed")
    ]


def test_ranks_that_share_cores_are_told_so(replay):
    crowded = type(replay)(**{**vars(replay), "cores": 1})
    assert f"{replay.ranks} ranks share 1 core:" in ring_page.page(crowded)
    roomy = type(replay)(**{**vars(replay), "cores": 64, "busy": Link(1e-6, 1e9, 0.0)})
    assert "ranks share" not in ring_page.page(roomy)


@pytest.mark.parametrize("total", [3e-6, 1.7e-3, 0.9, 42.0])
def test_ticks_are_round_and_few(total):
    found = ring_page.ticks(total)
    assert found[0] == 0 and 4 <= len(found) <= 10 and found[-1] <= total
    assert re.match(r"[125]\.0+e", f"{found[1]:e}")


@pytest.mark.parametrize(
    "value, text", [(0, "0"), (2.5, "2.5 s"), (1.234e-3, "1.23 ms"), (5e-7, "0.5 us")]
)
def test_times_in_words(value, text):
    assert ring_page.seconds(value) == text


def test_real_ranks(tmp_path):
    done = minillm("ring-replay", "--ranks", "3", "--mb", "0.5", "--out", tmp_path / "r.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 messages of a ring all-reduce of 0.5 MB on 3 ranks" in done.stdout
    assert "predicted" in done.stdout
    assert "Ring all-reduce of 0.5 MB on 3 ranks" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    "argv, says",
    [
        (("--ranks", "1"), "--ranks 1: a ring to look at has 2 to 16 ranks"),
        (("--ranks", "17"), "--ranks 17"),
        (("--mb", "0"), "--mb 0: choose 0.001 to 256 megabytes"),
        (("--mb", "nan"), "--mb nan"),
        (("--out", "/no/such/folder/r.html"), "in a folder that exists"),
        (("--out", "ring.svg"), "a file ending in .html"),
    ],
)
def test_bad_input_is_one_line(argv, says):
    with pytest.raises(UserError) as refusal:
        ring_replay._options(list(argv), 1)
    assert says in str(refusal.value) and "\n" not in str(refusal.value)


def test_bad_input_ends_with_2():
    done = minillm("ring-replay", "--ranks", "1")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == ("minillm ring-replay: --ranks 1: a ring to look at has 2 to 16 ranks\n")


def test_bad_input_under_mpirun_is_said_once():
    done = mpirun(2, "minillm/cli/__main__.py", "ring-replay", "--mb", "-1")
    assert done.returncode == 2 and done.stderr.count("--mb -1: choose") == 1


def test_no_mpirun(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="no mpirun"):
        ring_replay._launch(ring_replay.Options(), [])
