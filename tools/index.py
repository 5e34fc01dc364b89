"""Write README's lesson table and figures, the loop doctor's table of codes, and the question index in
docs/questions.md.

    python tools/index.py            write them
    python tools/index.py --check    only report whether they are up to date

The lessons come from the notebooks, the figures from the documents in docs/ that a benchmark writes, the codes from the
doctor's rules and messages, the questions from docs/questions.toml. Each question must name a lesson and one of its
headings.
"""

import argparse
import json
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
HEADING = re.compile(r"^#{2,3} (.+)$", re.MULTILINE)
# The words that open an answer to the learner's notes.
ANSWERS = "**Your notes say"
EXERCISE = re.compile(r"^### Exercise.*\((\d+) minutes\)", re.MULTILINE)
# A reader's pace: words of prose and lines of code a minute. Each cell also runs for a second or two.
WORDS, LINES = 180, 24
# The documents with a headline, which is a line in bold with the figures that matter most, and what each is about.
MEASURED = {
    "trainer-benchmark": "the loop",
    "finder-benchmark": "the finder",
    "doctor-benchmark": "the doctor",
    "class": "a class",
}
HEADLINE = re.compile(r"^\*\*([^*\n]+)\*\*$", re.MULTILINE)
QUESTIONS = """\
# Your question, and where it is answered

The course began with one learner's notes of a talk with a chatbot: claims that are often half true, and eight
questions. Each of them is answered in a lesson, by an experiment.
"""


@dataclass(frozen=True)
class Lesson:
    """What a notebook says about itself.

    Attributes:
        name: the notebook's name without its suffix.
        question: its title.
        time: how long it takes, in its own words.
        minutes: how long reading takes, by the length of text and code, and how long the exercises take, by their
            headings.
        abilities: what a learner can do afterwards.
        sections: its headings, in order.
        answering: the headings whose text answers the learner's notes.
    """

    name: str
    question: str
    time: str
    minutes: tuple[int, int]
    abilities: list[str]
    sections: list[str]
    answering: set[str]

    @property
    def title(self) -> str:
        """The lesson's number, which other lessons call it by, and its question."""
        return f"{self.name[:2]} · {self.question}"


def read_lesson(path: Path) -> Lesson:
    """Read a lesson.

    Raises:
        ValueError: its first cell lacks a title, a time or a list of what a learner can do afterwards.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    first = " ".join(texts[0].split("\n", 1)[1].split())
    title, time = re.match(r"# (.+)", texts[0]), re.search(r"\*\*Time:\*\* (?:about )?(.+?)\. ", first + " ")
    abilities = [
        " ".join(item.split()).rstrip(".;") for item in re.findall(r"^- ((?:.+\n?(?!- |\n))+)", texts[0], re.MULTILINE)
    ]
    if not (title and time and abilities):
        raise ValueError(
            f"The first cell of {path.name} must have a title, **Time:** and a list of what one can do afterwards."
        )
    minutes = (_reading_minutes(cells), sum(int(found) for text in texts for found in EXERCISE.findall(text)))
    sections, answering = [], set()
    for text in texts:
        parts = HEADING.split(text)
        for part in range(0, len(parts), 2):
            if part:
                sections.append(parts[part - 1])
            if ANSWERS in parts[part] and sections:
                answering.add(sections[-1])
    return Lesson(path.stem, title[1], time[1], minutes, abilities, sections, answering)


def _reading_minutes(cells: list[dict]) -> int:
    """Return the minutes for everything but the exercises, to the nearest five."""
    words = lines = 0
    exercise = False
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = re.search(r"^#{2,3} (.+)", text, re.MULTILINE)
            exercise = "xercise" in heading[1] if heading else exercise
        if not exercise and cell["cell_type"] == "markdown":
            words += len(text.split())
        elif not exercise:
            lines += len(text.splitlines())
    return max(5, 5 * round((words / WORDS + lines / LINES) / 5))


def lessons() -> dict[str, Lesson]:
    """Return all lessons by name, in order."""
    return {path.stem: read_lesson(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def questions() -> list[dict]:
    """Return the questions of docs/questions.toml, each with `ask`, `lesson`, `section` and `claims`."""
    return tomllib.loads((ROOT / "docs" / "questions.toml").read_text(encoding="utf-8"))["question"]


def anchor(section: str) -> str:
    """Return the fragment of an address that leads to a section, as JupyterLab resolves it."""
    return quote(section.replace("`", "").replace(" ", "-"), safe="")


def lesson_table(known: dict[str, Lesson]) -> str:
    """Return a table with one row per lesson: its question, and its minutes."""
    rows = ["| Lesson | Question | Minutes: lesson + exercises |", "| --- | --- | :-: |"]
    for lesson in known.values():
        (reading, exercises), label = lesson.minutes, lesson.name.replace("_", " ")
        rows.append(f"| [{label}](notebooks/{lesson.name}.ipynb) | {lesson.question} | {reading} + {exercises} |")
    return "\n".join(rows)


def figures() -> str:
    """Return the headlines of the measured documents as a list, each with a link to its document.

    Raises:
        ValueError: a document has no headline.
    """
    lines = []
    for name, subject in MEASURED.items():
        headline = HEADLINE.search((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8"))
        if not headline:
            raise ValueError(f"docs/{name}.md has no headline: write a line in bold.")
        lines.append(f"- {headline[1]} [How {subject} was measured](docs/{name}.md)")
    return "\n".join(lines)


def question_index(known: dict[str, Lesson]) -> str:
    """Return the page of the questions: under each lesson its questions, each with a link to the section that answers.

    Raises:
        ValueError: a question names a lesson or a heading that does not exist.
    """
    unknown = {question["lesson"] for question in questions()} - known.keys()
    if unknown:
        raise ValueError(f"docs/questions.toml names lessons that do not exist: {', '.join(sorted(unknown))}.")
    lines = [QUESTIONS]
    for lesson in known.values():
        lines += [f"## {lesson.title}", "", "| Your question | The answer |", "| --- | --- |"]
        for question in questions():
            if question["lesson"] != lesson.name:
                continue
            section = question["section"]
            if section not in lesson.sections:
                raise ValueError(f"{section!r} is not a heading of {lesson.name}: see docs/questions.toml.")
            lines.append(f"| {question['ask']} | [{section}](../notebooks/{lesson.name}.ipynb#{anchor(section)}) |")
        lines.append("")
    return "\n".join(lines)


def code_table() -> str:
    """Return a table with one row for each code of the loop doctor: the code, its level, and what it means."""
    from loop_doctor.messages import MESSAGES  # here, because it needs torch
    from loop_doctor.rules import RULES

    rows = ["| Code | Level | It means |", "| --- | --- | --- |"]
    rows += [
        f"| `{code}` | {MESSAGES[code].level} | {' '.join(rule.summary.split())} |" for code, rule in RULES.items()
    ]
    return "\n".join(rows)


def with_parts(readme: str, parts: dict[str, str]) -> str:
    """Return README with each part written again between its two comments.

    Raises:
        ValueError: README lacks the comments of a part.
    """
    for name, part in parts.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if begin not in readme or end not in readme:
            raise ValueError(f"README.md has no place for its {name}: put back the lines {begin} and {end}.")
        before, rest = readme.split(begin, 1)
        readme = "\n".join([before + begin, part, end + rest.split(end, 1)[1]])
    return readme


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 1 if a file is out of date under --check or a part cannot be made, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args(arguments).check
    readme, doctor, page = (ROOT / name for name in ("README.md", "loop-doctor/README.md", "docs/questions.md"))
    try:
        known = lessons()
        parts = {"lessons": lesson_table(known), "figures": figures()}
        made = {
            readme: with_parts(readme.read_text(encoding="utf-8"), parts),
            doctor: with_parts(doctor.read_text(encoding="utf-8"), {"codes": code_table()}),
            page: question_index(known),
        }
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    outdated = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in outdated:
        if check:
            print(f"{path.relative_to(ROOT)} is out of date: run `python tools/index.py`.", file=sys.stderr)
        else:
            path.write_text(made[path], encoding="utf-8")
    return int(check and bool(outdated))


if __name__ == "__main__":
    sys.exit(main())
