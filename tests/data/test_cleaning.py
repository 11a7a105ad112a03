import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.data.cleaning import Cleaning, clean

any_text = st.text(st.characters(), max_size=200)  # lone surrogates included
options = st.builds(Cleaning, lowercase=st.booleans(), dedup=st.booleans())


@given(any_text, options)
def test_cleaning_twice_changes_nothing(text, how):
    once = clean(text, how)
    assert clean(once, how) == once


@given(any_text)
def test_result_is_utf8_without_controls(text):
    cleaned = clean(text)
    cleaned.encode("utf-8")
    assert not any(c < " " and c not in "\n\t" for c in cleaned)


@given(st.text(string.digits + string.ascii_letters + string.punctuation + " \t\n"))
def test_plain_ascii_is_left_alone(text):
    assert clean(text) == text


@pytest.mark.parametrize(
    "text, how, expected",
    [
        ("a\r\nb\rc\n", Cleaning(), "a\nb\nc\n"),
        ("e\u0301", Cleaning(), "\u00e9"),
        ("e\x00\u0301\x1b[0m\x7f", Cleaning(), "\u00e9[0m"),
        ("Ab Ü", Cleaning(lowercase=True), "ab ü"),
        ("x\n\ny\nx\n\ny", Cleaning(dedup=True), "x\n\ny\n\n"[:-1]),
        ("X\nx", Cleaning(lowercase=True, dedup=True), "x"),
    ],
)
def test_each_step(text, how, expected):
    assert clean(text, how) == expected
