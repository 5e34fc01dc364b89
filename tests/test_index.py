"""README's lesson table and question index: made from the notebooks, complete, and every link leads to a heading."""

import re
from urllib.parse import unquote

import index
import pytest

LESSONS = index.lessons()
QUESTIONS = index.questions()
PICTURES = {
    "step size", "downhill walk", "strides over the valley", "snail", "puddle", "sweet spot", "sloth", "scoreboard",
    "calories", "lifeline", "peeling", "file handle", "tap and bucket", "water meter",
}  # fmt: skip


def test_readme_is_up_to_date():
    assert index.main(["--check"]) == 0


def test_there_are_nine_lessons_in_order():
    assert [name[:2] for name in LESSONS] == [f"{number:02}" for number in range(9)]


def test_every_claim_question_block_and_picture_of_the_notes_has_an_answer():
    claims = {claim for question in QUESTIONS for claim in question["claims"]}
    every = {*map(str, range(1, 75)), *(f"B{n}" for n in range(1, 8)), *(f"Q{n}" for n in range(1, 9))}
    assert every - claims == set()
    assert {f"picture: {name}" for name in PICTURES} - claims == set()


@pytest.mark.parametrize("name", LESSONS)
def test_every_section_that_answers_the_notes_is_reached_by_a_question(name):
    reached = {question["section"] for question in QUESTIONS if question["lesson"] == name}
    assert LESSONS[name].answering - reached == set()
    assert reached <= set(LESSONS[name].sections)


def test_every_link_of_the_index_leads_to_a_heading():
    readme = (index.ROOT / "README.md").read_text(encoding="utf-8")
    part = readme.split("<!-- questions: begin -->")[1].split("<!-- questions: end -->")[0]
    links = re.findall(r"\]\(notebooks/(\w+)\.ipynb#([^)]+)\)", part)
    assert len(links) == len(QUESTIONS)
    for name, anchor in links:
        assert unquote(anchor) in {section.replace("`", "").replace(" ", "-") for section in LESSONS[name].sections}


def test_no_question_is_asked_twice_in_a_lesson():
    asked = [(question["lesson"], question["ask"]) for question in QUESTIONS]
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("name", LESSONS)
def test_the_time_that_a_lesson_states_is_the_time_that_it_takes(name):
    read, exercises = LESSONS[name].minutes
    assert LESSONS[name].time == f"{read} minutes to read and run, and {exercises} for the exercises"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"section": "99. Nowhere"}, "'99. Nowhere' is no heading of"),
        ({"lesson": "99_none"}, "lessons that are not there: 99_none"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(change, said, monkeypatch, capsys):
    monkeypatch.setattr(index, "questions", lambda: [{**QUESTIONS[0], **change}])
    assert index.main(["--check"]) == 1
    assert said in capsys.readouterr().err


def test_a_readme_that_is_out_of_date_is_told_and_made_anew(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / "notebooks").symlink_to(index.ROOT / "notebooks")
    (tmp_path / "docs" / "questions.toml").symlink_to(index.ROOT / "docs" / "questions.toml")
    readme = tmp_path / "README.md"
    parts = ("lessons", "questions")
    readme.write_text(
        "before\n" + "".join(f"<!-- {p}: begin -->\noutdated\n<!-- {p}: end -->\n" for p in parts) + "after\n"
    )
    monkeypatch.setattr(index, "ROOT", tmp_path)
    assert index.main(["--check"]) == 1
    assert "run `make notebooks`" in capsys.readouterr().err
    assert index.main([]) == 0
    assert index.main(["--check"]) == 0
    text = readme.read_text()
    assert "outdated" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_a_lesson_without_title_or_time_is_named(tmp_path):
    path = tmp_path / "00_x.ipynb"
    path.write_text('{"cells": [{"cell_type": "markdown", "source": ["# A title\\n", "no time"]}]}')
    with pytest.raises(ValueError, match=r"the first cell of 00_x.ipynb must have a title, \*\*Time:\*\*"):
        index.read_lesson(path)
