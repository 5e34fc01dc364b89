"""Build the published pages from the stored notebooks; nothing is executed.

    python tools/pages.py    write build/site and say how to look at it

Sphinx reads a copy of the lessons, in which only that is changed which a page cannot show as JupyterLab does: see
`for_the_web`. A warning of Sphinx is an error. The settings, the front page and the style are in docs/site.

The file is not called site.py because Python itself has a module of this name, which it imports when it starts.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import index
import nbformat
from markdown_it.common.normalize_url import normalizeLinkText
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "docs" / "site"
# What a lab says of itself where no kernel runs.
LAB = re.compile(r"\w+Lab: run the cell\b")
STILL = """```{container} still
This is a still picture. Open the lesson with `make lab` to move it.
```"""
LESSON_LINK = re.compile(r'(?<=href=")(\d\d_\w+)\.ipynb')
PICTURES = {".gif", ".jpg", ".png", ".svg", ".webp"}


def anchor(heading: str) -> str:
    """The name under which a link finds a heading: the one that JupyterLab gives it, as MyST reads it from a link."""
    return normalizeLinkText(index.link("", heading).partition("#")[2])


def title(lesson: index.Lesson) -> str:
    """The title of a lesson's page: its number, by which the lessons name each other, and its question."""
    return f"{lesson.name[:2]} · {lesson.question}"


def for_the_web(notebook: NotebookNode, lesson: index.Lesson) -> None:
    """Change a lesson into what its page shows.

    The title gets the lesson's number, each picture the alt text that its output holds, each still picture of a lab a
    line that says so, and a link inside of an output leads to a page. `%%doctor` is read as IPython, not as Python.

    Raises:
        ValueError: a cell holds two pictures, but Sphinx takes one alt text for a cell.
    """
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    cells = []
    for number, cell in enumerate(notebook.cells):
        cells.append(cell)
        if number == 0:
            cell.source = cell.source.replace(lesson.question, title(lesson), 1)
        outputs = [output for output in cell.get("outputs", []) if "data" in output]
        pictured = [output for output in outputs if "image/png" in output.data]
        if len(pictured) > 1:
            raise ValueError(
                f"cell {number} of {lesson.name}.ipynb stores {len(pictured)} pictures, and a page holds one alt text "
                "for a cell: show each in a cell of its own"
            )
        for output in pictured:
            alt = output.metadata.get("image/png", {}).get("alt", "")
            cell.metadata["mystnb"] = {"image": {"alt": " ".join(alt.split())}}
            if LAB.match(output.data.get("text/plain", "")):
                cells.append(new_markdown_cell(STILL))
        for output in outputs:
            if "text/html" in output.data:
                output.data["text/html"] = LESSON_LINK.sub(r"\1.html", output.data["text/html"])
    notebook.cells = cells


def contents(lessons: dict[str, index.Lesson], more: list[str]) -> str:
    """The tree of all pages, from which Sphinx makes the list beside each page and the steps to the next one."""
    chapters = {"Lessons": [f"notebooks/{name}" for name in lessons], "More": more}
    return "\n".join(
        "```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```\n".format(caption, "\n".join(pages))
        for caption, pages in chapters.items()
    )


def lesson_list(lessons: dict[str, index.Lesson]) -> str:
    """What each lesson asks, how long it takes and what one can do afterwards."""
    return "\n".join(
        f"```{{container}} lesson\n**[{title(lesson)}]({index.link(name)})**\n\n{lesson.time}\n\n"
        + "".join(f"- {ability}\n" for ability in lesson.abilities)
        + "```\n"
        for name, lesson in lessons.items()
    )


def question_tables(lessons: dict[str, index.Lesson]) -> str:
    """All questions under their lessons, each with a link to the section that answers it."""
    lines = []
    for name, lesson in lessons.items():
        lines += [f"## {title(lesson)}", "", "| Your question | The answer |", "| --- | --- |"]
        lines += [
            f"| {question['ask']} | [{question['section']}]({index.link(name, question['section'])}) |"
            for question in index.questions()
            if question["lesson"] == name
        ]
        lines.append("")
    return "\n".join(lines)


def write_source(folder: Path) -> None:
    """Write all that Sphinx reads, under the paths that it has in the repository, so that links stay as they are."""
    lessons = index.lessons()
    (folder / "notebooks").mkdir(parents=True)
    (folder / "docs").mkdir()
    for name, lesson in lessons.items():
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        for_the_web(notebook, lesson)
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
    more = ["questions"]
    for path in sorted((ROOT / "docs").iterdir()):
        if path.suffix in PICTURES or path.name == "class.md":
            shutil.copy(path, folder / "docs")
    if (folder / "docs" / "class.md").exists():
        more.append("docs/class")
    parts = {
        "contents": contents(lessons, more),
        "lessons": lesson_list(lessons),
        "questions": question_tables(lessons),
    }
    for name in ("index.md", "questions.md"):
        text = (SETTINGS / name).read_text(encoding="utf-8")
        for part, made in parts.items():
            text = text.replace(f"<!-- {part} -->", made)
        (folder / name).write_text(text, encoding="utf-8")


def build(folder: Path) -> int:
    """Write the pages to `folder/site`, from scratch; return Sphinx's exit status."""
    source, trees, site = folder / "site-source", folder / "site-trees", folder / "site"
    # MyST-NB puts the pictures of the outputs beside the pages before Sphinx takes them in.
    for old in (source, trees, site, folder / "jupyter_execute"):
        shutil.rmtree(old, ignore_errors=True)
    write_source(source)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "-c", str(SETTINGS), "-d", str(trees)]
    return subprocess.run([*command, str(source), str(site)], cwd=ROOT).returncode


def main() -> int:
    """Build, and say where the pages are."""
    if status := build(ROOT / "build"):
        print("error: Sphinx found what it names above", file=sys.stderr)
        return status
    python = os.path.relpath(sys.executable, ROOT) if Path(sys.executable).is_relative_to(ROOT) else sys.executable
    print("\nThe pages are in build/site. To look at them, run this and open http://127.0.0.1:8000/ :")
    print(f"  {python} -m http.server 8000 --bind 127.0.0.1 --directory build/site")
    return 0


if __name__ == "__main__":
    sys.exit(main())
