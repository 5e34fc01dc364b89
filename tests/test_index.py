"""The lesson table, the figures and the question index are complete and up to date, and the links work."""

import re
from urllib.parse import unquote

import index
import pytest

LESSONS = index.lessons()
QUESTIONS = index.questions()
# The metaphors of the notes.
PICTURES = {
    "step size",
    "downhill walk",
    "strides over the valley",
    "snail",
    "puddle",
    "sweet spot",
    "sloth",
    "scoreboard",
    "calories",
    "lifeline",
    "peeling",
    "file handle",
    "tap and bucket",
    "water meter",
}


def test_readme_and_the_question_index_are_up_to_date():
    assert index.main(["--check"]) == 0


def test_every_claim_question_block_and_picture_of_the_notes_has_an_answer():
    claims = {claim for question in QUESTIONS for claim in question["claims"]}
    every = {*map(str, range(1, 75)), *(f"B{n}" for n in range(1, 8)), *(f"Q{n}" for n in range(1, 9))}
    assert every - claims == set()
    assert {f"picture: {name}" for name in PICTURES} - claims == set()


@pytest.mark.parametrize("name", LESSONS)
def test_every_section_that_answers_the_notes_is_reached_by_a_question(name):
    reached = {question["section"] for question in QUESTIONS if question["lesson"] == name}
    assert LESSONS[name].answering - reached == set()


def test_every_question_is_on_the_page_and_its_link_leads_to_a_heading():
    page = (index.ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(\.\./notebooks/(\w+)\.ipynb#([^)]+)\)", page)
    assert len(links) == len(QUESTIONS)
    for name, anchor in links:
        assert unquote(anchor) in {section.replace("`", "").replace(" ", "-") for section in LESSONS[name].sections}


def test_no_question_is_asked_twice_in_a_lesson():
    asked = [(question["lesson"], question["ask"]) for question in QUESTIONS]
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_states_the_time_that_it_takes(name):
    read, exercises = LESSONS[name].minutes
    assert LESSONS[name].time == f"{read} minutes to read and run, and {exercises} for the exercises"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"section": "99. Nowhere"}, "'99. Nowhere' is not a heading of 00_start_here"),
        ({"lesson": "99_none"}, "names lessons that do not exist: 99_none"),
    ],
)
def test_a_question_that_leads_nowhere_is_an_error(change, message, monkeypatch, capsys):
    monkeypatch.setattr(index, "questions", lambda: [{**QUESTIONS[0], **change}])
    assert index.main(["--check"]) == 1
    assert message in capsys.readouterr().err


def test_a_lesson_without_title_or_time_is_an_error(tmp_path):
    path = tmp_path / "00_x.ipynb"
    path.write_text('{"cells": [{"cell_type": "markdown", "source": ["# A title\\n", "no time"]}]}')
    with pytest.raises(ValueError, match=r"first cell of 00_x.ipynb must have a title, \*\*Time:\*\*"):
        index.read_lesson(path)


OUTDATED = "before\n" + "".join(f"<!-- {p}: begin -->\noutdated\n<!-- {p}: end -->\n" for p in ("lessons", "figures"))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with the lessons, an outdated README and no question index, in which index works."""
    (tmp_path / "notebooks").symlink_to(index.ROOT / "notebooks")
    (tmp_path / "docs").mkdir()
    for name in ("questions.toml", *(f"{name}.md" for name in index.MEASURED)):
        (tmp_path / "docs" / name).write_text((index.ROOT / "docs" / name).read_text(encoding="utf-8"))
    (tmp_path / "README.md").write_text(OUTDATED + "after\n")
    (tmp_path / "loop-doctor").mkdir()
    (tmp_path / "loop-doctor" / "README.md").write_text("<!-- codes: begin -->\nold\n<!-- codes: end -->\n")
    monkeypatch.setattr(index, "ROOT", tmp_path)
    return tmp_path


def test_outdated_files_are_reported_and_written_again(checkout, capsys):
    assert index.main(["--check"]) == 1
    reported = capsys.readouterr().err
    assert "README.md is out of date: run `python tools/index.py`" in reported
    assert "loop-doctor/README.md is out of date" in reported
    assert "docs/questions.md is out of date" in reported
    assert index.main([]) == 0
    assert index.main(["--check"]) == 0
    readme = (checkout / "README.md").read_text()
    assert "outdated" not in readme
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")


def test_a_measured_document_without_a_headline_is_an_error(checkout, capsys):
    (checkout / "docs" / "class.md").write_text("# A class\n\nNothing was **measured** here.\n")
    assert index.main([]) == 1
    assert "docs/class.md has no headline: write a line in bold" in capsys.readouterr().err


def test_a_readme_without_a_place_for_a_part_is_an_error(checkout, capsys):
    (checkout / "README.md").write_text(OUTDATED.replace("<!-- figures: end -->", ""))
    assert index.main([]) == 1
    assert "README.md has no place for its figures: put back the lines" in capsys.readouterr().err
