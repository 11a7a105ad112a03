"""Every exercise of every chapter: the start file fails, the solution passes, and each of at least
three wrong answers is rejected, in the words that tell the learner why. And every chapter has the
form that the index promises."""

import re

import pytest

from minillm.learn import holes
from minillm.learn.chapters import TUTORIALS, folders, read
from minillm.learn.judge import load
from minillm.learn.plug import plugged
from tests.learn.answers import judged, started_without_marks

CHAPTERS, UNREADABLE = {}, {}
for name, folder in folders().items():
    try:
        CHAPTERS[name] = read(folder)
    except Exception as error:  # one broken chapter leaves the others their tests
        UNREADABLE[name] = error
EXERCISES = [
    pytest.param(of, number, id=f"{of.name}-{number}")
    for of in CHAPTERS.values()
    for number in range(1, len(of.exercises) + 1)
]
WRONG = [
    pytest.param(of, number, wrong, id=f"{of.name}-{number}-{wrong.what}")
    for of in CHAPTERS.values()
    for number, exercise in enumerate(of.exercises, 1)
    for wrong in exercise.wrong
]
SECTIONS = [
    "The idea", "The mathematics", "Build it", "Check it", "Measure it", "Exercises",
    "What real systems do", "Further reading",
]  # fmt: skip


@pytest.mark.parametrize("name", folders())
def test_chapter_can_be_read(name):
    if name in UNREADABLE:
        raise UNREADABLE[name]


@pytest.mark.parametrize("of, number", EXERCISES)
def test_solution_passes(of, number, tmp_path):
    verdict = judged(of, number, of.solutions(), tmp_path)
    if verdict.state == "not checked":
        pytest.skip(verdict.message)
    assert verdict.passed, verdict.message


@pytest.mark.parametrize("of, number", EXERCISES)
def test_start_fails(of, number, tmp_path):
    assert judged(of, number, of.starts(), tmp_path).state == "unwritten"
    if any(file.endswith(".cu") for file in of.files):
        verdict = judged(of, number, started_without_marks(of), tmp_path)
        assert not verdict.passed, "an empty kernel passes"


@pytest.mark.parametrize("of, number, wrong", WRONG)
def test_wrong_answer_is_rejected(of, number, wrong, tmp_path):
    verdict = judged(of, number, of.wrongly(wrong), tmp_path)
    if verdict.state == "not checked":
        pytest.skip(verdict.message)
    assert verdict.state == "wrong", f"{wrong.what} passes"
    assert wrong.says in verdict.message


@pytest.mark.parametrize("of", CHAPTERS.values(), ids=CHAPTERS)
def test_exercises_are_complete(of):
    numbers = {n for file in of.files for n in holes.holes(of.source(file))}
    assert numbers == set(range(1, len(of.exercises) + 1)), "holes and exercises differ"
    for exercise in of.exercises:
        assert len(exercise.wrong) >= 3 and len(set(exercise.hints)) == 3
        assert len({wrong.what for wrong in exercise.wrong}) == len(exercise.wrong)


@pytest.mark.parametrize("of", [c for c in CHAPTERS.values() if c.plugs], ids=lambda c: c.name)
def test_plugs_fit(of, tmp_path):
    """Each place exists, and is as it was afterwards; `learn train` runs in the chapter's text."""
    for file, text in of.solutions().items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    with plugged(of, load(of, tmp_path)) as used:
        assert [each.plug for each in used] == list(of.plugs)
    assert all(1 <= plug.exercise <= len(of.exercises) for plug in of.plugs)


@pytest.mark.parametrize("of", CHAPTERS.values(), ids=CHAPTERS)
def test_text_has_the_form_of_a_chapter(of):
    text = (of.folder / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    assert re.findall(r"^## (.+)$", prose, re.M) == SECTIONS
    assert 15 <= of.minutes <= 60
    assert f"learn check {of.name}" in text and f"learn start {of.name}" in text
    names = list(CHAPTERS)
    here = names.index(of.name)
    footer = text.rstrip().splitlines()[-1]
    assert "[Contents](../README.md)" in footer
    for neighbour in names[max(here - 1, 0) : here] + names[here + 1 : here + 2]:
        assert f"](../{CHAPTERS[neighbour].folder.name}/README.md)" in footer, "no way on"
    for exercise in of.exercises:
        assert exercise.title in text, f"the text does not mention {exercise.title!r}"


@pytest.mark.parametrize("of", CHAPTERS.values(), ids=CHAPTERS)
def test_contents_list_the_chapter(of):
    contents = (TUTORIALS / "README.md").read_text(encoding="utf-8")
    row = f"| [{of.name[2:]}]({of.folder.name}/README.md) | {of.title} | {of.minutes} |"
    assert row in contents
