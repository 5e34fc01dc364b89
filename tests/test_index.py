"""README's lesson table and question index, complete, with links that lead to headings; its badges and launch links."""

import re
import tomllib
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import index
import pytest

LESSONS = index.lessons()
QUESTIONS = index.questions()
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


PARTS = ("badges", "clone", "lessons", "questions", "launch")
OUTDATED = "before\n" + "".join(f"<!-- {p}: begin -->\noutdated\n<!-- {p}: end -->\n" for p in PARTS) + "after\n"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with the lessons and an outdated README, in which index works; call it to set the address."""
    for name in ("notebooks", "docs"):
        (tmp_path / name).symlink_to(index.ROOT / name)

    def set_address(address: str) -> Path:
        (tmp_path / "pyproject.toml").write_text(f'[tool.course]\nrepository = "{address}"\n')
        (tmp_path / "README.md").write_text(OUTDATED)
        return tmp_path / "README.md"

    monkeypatch.setattr(index, "ROOT", tmp_path)
    return set_address


def test_a_readme_that_is_out_of_date_is_told_and_made_anew(checkout, capsys):
    readme = checkout("")
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


def launched(readme: str) -> list[str]:
    """All addresses outside of the repository in the parts that are made."""
    return re.findall(r"https?://[^\s)\"]+", readme)


def test_without_an_address_there_is_no_launch_link_and_no_badge(checkout):
    readme = checkout("")
    assert index.main([]) == 0
    made = readme.read_text()
    assert launched(made) == []
    assert "![" not in made
    assert "```" not in made
    assert "`repository` below `[tool.course]` in `pyproject.toml`" in made


def test_an_address_on_github_gives_every_lesson_its_links(checkout):
    """The forms are those that Binder, Colab and GitHub document; none of them is asked."""
    address = "https://github.com/ada/training-loop"
    readme = checkout(address)
    assert index.main([]) == 0
    made = readme.read_text()
    badges = made.split("<!-- badges: begin -->")[1].split("<!-- badges: end -->")[0].strip().splitlines()
    assert badges[0] == (
        f"[![The tests]({address}/actions/workflows/test.yml/badge.svg)]({address}/actions/workflows/test.yml)"
    )
    assert len(badges) == 3
    assert f"git clone {address} " in made
    assert "\ncd training-loop\n" in made
    assert f"\n%pip install --quiet git+{address}\n" in made
    binder = [url for url in launched(made) if "mybinder.org/v2" in url]
    colab = [url for url in launched(made) if "colab.research.google.com/github" in url]
    for name in LESSONS:
        row = next(line for line in made.splitlines() if line.startswith("|") and f"(notebooks/{name}.ipynb)" in line)
        assert (
            f"[Binder](https://mybinder.org/v2/gh/ada/training-loop/HEAD?urlpath=lab/tree/notebooks/{name}.ipynb)"
            in row
        )
        assert f"/github/ada/training-loop/blob/HEAD/notebooks/{name}.ipynb)" in row
    for links in (binder, colab):
        assert len(links) == len(LESSONS) + 2  # the table, a badge, and the section below
    for url in binder:
        assert (index.ROOT / parse_qs(urlsplit(url).query)["urlpath"][0].removeprefix("lab/tree/")).is_file()
    strange = [url for url in launched(made) if "ada/training-loop" not in url and url not in index.BADGES.values()]
    assert strange == []


def test_an_address_elsewhere_has_binder_alone(checkout):
    readme = checkout("https://git.example.org/ada/training-loop")
    assert index.main([]) == 0
    made = readme.read_text()
    assert "https://mybinder.org/v2/git/https%3A%2F%2Fgit.example.org%2Fada%2Ftraining-loop/HEAD?urlpath=lab/" in made
    assert "colab.research" not in made
    assert "actions/workflows" not in made
    assert "git clone https://git.example.org/ada/training-loop " in made


def test_the_badge_of_the_tests_is_that_of_a_workflow_that_is_there():
    assert (index.ROOT / ".github" / index.WORKFLOW.removeprefix("actions/")).is_file()


def test_colab_installs_without_the_extras_that_would_replace_its_own_notebook():
    """pip takes the package's own requirements alone: Colab brings Jupyter, widgets, Matplotlib and TensorBoard."""
    project = tomllib.loads((index.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not [name for name in project["dependencies"] if re.match("jupyterlab|ipywidgets|ipykernel", name)]


@pytest.mark.parametrize(
    "address", ["github.com/ada/x", "https://github.com/ada", "https://github.com/ada/x/", "ada/x"]
)
def test_what_is_no_address_is_quoted(address, checkout, capsys):
    checkout(address)
    assert index.main(["--check"]) == 1
    assert f"must be like https://github.com/OWNER/NAME, or empty, got {address!r}" in capsys.readouterr().err


def test_a_part_without_a_place_in_readme_is_named(checkout, capsys):
    readme = checkout("")
    readme.write_text(OUTDATED.replace("<!-- launch: end -->", ""))
    assert index.main([]) == 1
    assert (
        "README.md has no place for its launch: put back the lines <!-- launch: begin --> and"
        in capsys.readouterr().err
    )
