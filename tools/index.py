"""Write what README says about lessons, questions and launch links, from what the project itself says of them.

    python tools/index.py            write it
    python tools/index.py --check    only look: is README up to date?

The lesson table and the question index come from the notebooks and docs/questions.toml. Each question must name a
lesson and a heading of it, and each section in which the learner's notes are answered ("Your notes say") must be
reached by a question. Badges, launch links and the lines that clone and install come from the repository's address,
`[tool.course]` in pyproject.toml; without an address there are none.
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
ANSWERS = "**Your notes say"
GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)")
WORKFLOW = "actions/workflows/test.yml"
BADGES = {
    "Binder": "https://mybinder.org/badge_logo.svg",
    "Colab": "https://colab.research.google.com/assets/colab-badge.svg",
}
EXERCISE = re.compile(r"^### Exercise.*\((\d+) minutes\)", re.MULTILINE)
# A reader's pace: words of prose and lines of code a minute. Each cell runs in a second or two beside that.
WORDS, LINES = 180, 24


@dataclass(frozen=True)
class Lesson:
    """What a notebook says of itself.

    Attributes:
        name: the notebook's name without its ending.
        question: its title.
        time: how long it takes, in its own words.
        minutes: how long it takes to read, by the length of its text and code, and its exercises, by their headings.
        abilities: what one can do afterwards.
        sections: its headings, in order.
        answering: those of them under which the notes are answered.
    """

    name: str
    question: str
    time: str
    minutes: tuple[int, int]
    abilities: list[str]
    sections: list[str]
    answering: set[str]


def read_lesson(path: Path) -> Lesson:
    """Read a lesson.

    Raises:
        ValueError: its first cell has no title, no time or nothing that one can do afterwards.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    first = " ".join(texts[0].split("\n", 1)[1].split())
    title, time = re.match(r"# (.+)", texts[0]), re.search(r"\*\*Time:\*\* (?:about )?(.+?)\. ", first + " ")
    abilities = [
        " ".join(item.split()).rstrip(".;") for item in re.findall(r"^- ((?:.+\n?(?!- |\n))+)", texts[0], re.MULTILINE)
    ]
    if not (title and time and abilities):
        raise ValueError(f"the first cell of {path.name} must have a title, **Time:** and a list of what one can do")
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
    """The time for all that is not an exercise, to the nearest five minutes."""
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
    """All lessons by name, in order."""
    return {path.stem: read_lesson(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def questions() -> list[dict]:
    """The questions of docs/questions.toml, each with `ask`, `lesson`, `section` and `claims`."""
    return tomllib.loads((ROOT / "docs" / "questions.toml").read_text(encoding="utf-8"))["question"]


def link(lesson: str, section: str = "") -> str:
    """The address of a lesson's section, as JupyterLab resolves it."""
    anchor = "#" + quote(section.replace("`", "").replace(" ", "-"), safe="") if section else ""
    return f"notebooks/{lesson}.ipynb{anchor}"


def lesson_table(known: dict[str, Lesson], repository: str = "") -> str:
    """One row a lesson: its question, its time, what one can do afterwards, and where it starts by a click."""
    head = ["Lesson", "Question", "Minutes: lesson + exercises", "Afterwards you can"]
    head += ["Open in"] if repository else []
    rows = [head, ["---", "---", ":-:", "---", "---"][: len(head)]]
    for lesson in known.values():
        name = lesson.name.replace("_", " ")
        row = [f"[{name}]({link(lesson.name)})", lesson.question, "{} + {}".format(*lesson.minutes)]
        row.append("; ".join(lesson.abilities))
        if repository:
            row.append(" ".join(f"[{place}]({url})" for place, url in launches(repository, lesson.name).items()))
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def launches(repository: str, lesson: str) -> dict[str, str]:
    """The addresses at which a lesson starts in a browser, by the name of the service.

    Binder takes any repository; Colab and the badge of the tests are made for GitHub.
    """
    found = GITHUB.fullmatch(repository)
    place = f"gh/{found[1]}" if found else f"git/{quote(repository, safe='')}"
    path = f"notebooks/{lesson}.ipynb"
    services = {"Binder": f"https://mybinder.org/v2/{place}/HEAD?urlpath=lab/tree/{path}"}
    if found:
        services["Colab"] = f"https://colab.research.google.com/github/{found[1]}/blob/HEAD/{path}"
    return services


def badges(known: dict[str, Lesson], repository: str) -> str:
    """One line of badges: the tests, and the first lesson on Binder and Colab; nothing without an address."""
    if not repository:
        return ""
    line = []
    if GITHUB.fullmatch(repository):
        line.append(f"[![The tests]({repository}/{WORKFLOW}/badge.svg)]({repository}/{WORKFLOW})")
    for name, url in launches(repository, next(iter(known))).items():
        line.append(f"[![Open the first lesson in {name}]({BADGES[name]})]({url})")
    return "\n".join(line)


def clone(repository: str) -> str:
    """The lines that clone the repository; nothing without an address."""
    if not repository:
        return ""
    folder = repository.rsplit("/", 1)[1].removesuffix(".git")
    return f"```sh\ngit clone {repository}    # needs the network; not run by our tests\ncd {folder}\n```"


def launch(known: dict[str, Lesson], repository: str) -> str:
    """How to start on Binder and Colab: links and Colab's install line, or what is missing for them."""
    if not repository:
        return (
            "Both start from the public address of the repository, and it has none yet. It is one line, `repository` "
            "below `[tool.course]` in `pyproject.toml`; with it, `make notebooks` puts badges above, a link beside "
            "each lesson, and Colab's line to install the course here."
        )
    first = launches(repository, next(iter(known)))
    text = f"[Open the first lesson in Binder]({first['Binder']})."
    if "Colab" in first:
        text += (
            f" [Open it in Colab]({first['Colab']}); the other lessons are linked in the table above. On Colab, run "
            "this cell first (needs Colab; not run by our tests):\n\n"
            f"```python\n%pip install --quiet git+{repository}\n```"
        )
    return text


def question_index(known: dict[str, Lesson]) -> str:
    """The questions by lesson, each with a link to the section that answers it.

    Raises:
        ValueError: a question names a lesson or a heading that is not there.
    """
    lines = []
    for lesson in known.values():
        asked = [question for question in questions() if question["lesson"] == lesson.name]
        lines += [f"<details><summary>{lesson.name.replace('_', ' ')}: {len(asked)} questions</summary>", ""]
        lines += ["| Your question | The answer |", "| --- | --- |"]
        for question in asked:
            if question["section"] not in lesson.sections:
                raise ValueError(f"{question['section']!r} is no heading of {lesson.name}: see docs/questions.toml")
            lines.append(f"| {question['ask']} | [{question['section']}]({link(lesson.name, question['section'])}) |")
        lines += ["", "</details>", ""]
    unknown = {question["lesson"] for question in questions()} - known.keys()
    if unknown:
        raise ValueError(f"docs/questions.toml names lessons that are not there: {', '.join(sorted(unknown))}")
    return "\n".join(lines).rstrip()


def read_repository() -> str:
    """The public address of the repository, or "" while it has none.

    Raises:
        ValueError: it is no address of a repository.
    """
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    address = settings["tool"]["course"]["repository"]
    if address and not re.fullmatch(r"https://[\w.-]+(/[\w.-]+){2,}", address):
        raise ValueError(
            f"repository in pyproject.toml must be like https://github.com/OWNER/NAME, or empty, got {address!r}"
        )
    return address


def with_parts(readme: str) -> str:
    """README with its generated parts made anew.

    Raises:
        ValueError: a part has no place in README, or cannot be made.
    """
    known, repository = lessons(), read_repository()
    parts = {
        "badges": badges(known, repository),
        "clone": clone(repository),
        "lessons": lesson_table(known, repository),
        "questions": question_index(known),
        "launch": launch(known, repository),
    }
    for name, part in parts.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if begin not in readme or end not in readme:
            raise ValueError(f"README.md has no place for its {name}: put back the lines {begin} and {end}")
        before, rest = readme.split(begin, 1)
        readme = "\n".join(filter(None, [before + begin, part, end + rest.split(end, 1)[1]]))
    return readme


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, or 1 where README is out of date or a link leads nowhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args(arguments).check
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    try:
        after = with_parts(before)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if before == after:
        return 0
    if check:
        print("README.md is out of date: run `make notebooks`", file=sys.stderr)
        return 1
    path.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
