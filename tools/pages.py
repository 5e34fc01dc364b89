"""Build the published pages from the stored notebooks; nothing is executed.

    python tools/pages.py    write build/site and say how to look at it

Sphinx reads a copy of the lessons in which `for_the_web` has changed only what a page cannot show as JupyterLab does.
Any Sphinx warning is an error. The settings, the front page and the style are in docs/site.

This file is not called site.py because Python imports its own module of that name when it starts.
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
# How a lab describes itself when no kernel is running.
LAB = re.compile(r"\w+Lab: run the cell\b")
STILL = """```{container} still
This is a still picture. Open the lesson with `make lab` to move it.
```"""
LESSON_LINK = re.compile(r'(?<=href=")(\d\d_\w+)\.ipynb')
PICTURES = {".gif", ".jpg", ".png", ".svg", ".webp"}
# The documents that are pages, in the order in which the menu lists them.
DOCUMENTS = ("questions", "running", "commands", "accessibility", "class")


def anchor(heading: str) -> str:
    """Return the name that JupyterLab gives a heading, as MyST reads it from a link."""
    return normalizeLinkText(index.anchor(heading))


def for_the_web(notebook: NotebookNode, lesson: index.Lesson) -> None:
    """Change a lesson into what its page shows.

    The title gets the lesson's number, each picture the alt text that its output holds, each still picture of a lab a
    note, and links inside an output lead to pages. `%%doctor` is read as IPython, not as Python.

    Raises:
        ValueError: a cell holds two pictures, but Sphinx accepts only one alt text per cell.
    """
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    cells = []
    for number, cell in enumerate(notebook.cells):
        cells.append(cell)
        if number == 0:
            cell.source = cell.source.replace(lesson.question, lesson.title, 1)
        outputs = [output for output in cell.get("outputs", []) if "data" in output]
        pictured = [output for output in outputs if "image/png" in output.data]
        if len(pictured) > 1:
            raise ValueError(
                f"Cell {number} of {lesson.name}.ipynb stores {len(pictured)} pictures, but a page has one alt text "
                "per cell: show each picture in its own cell."
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


def contents(lessons: dict[str, index.Lesson]) -> str:
    """Return the tree of all pages; Sphinx makes the menu beside each page and the links to the next one from it."""
    chapters = {
        "Lessons": [f"notebooks/{name}" for name in lessons],
        "More": [f"docs/{name}" for name in DOCUMENTS],
    }
    return "\n".join(
        "```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```\n".format(caption, "\n".join(pages))
        for caption, pages in chapters.items()
    )


def lesson_list(lessons: dict[str, index.Lesson]) -> str:
    """Return, for each lesson, its question, how long it takes and what a learner can do afterwards."""
    return "\n".join(
        f"```{{container}} lesson\n**[{lesson.title}](notebooks/{name}.ipynb)**\n\n{lesson.time}\n\n"
        + "".join(f"- {ability}\n" for ability in lesson.abilities)
        + "```\n"
        for name, lesson in lessons.items()
    )


def write_source(folder: Path) -> None:
    """Write everything that Sphinx reads, under the same paths as in the repository, so that links still work."""
    lessons = index.lessons()
    (folder / "notebooks").mkdir(parents=True)
    (folder / "docs").mkdir()
    for name, lesson in lessons.items():
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        for_the_web(notebook, lesson)
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
    for path in (ROOT / "docs").iterdir():
        if path.suffix in PICTURES or (path.suffix == ".md" and path.stem in DOCUMENTS):
            shutil.copy(path, folder / "docs")
    front = (SETTINGS / "index.md").read_text(encoding="utf-8")
    front = front.replace("<!-- lessons -->", lesson_list(lessons)).replace("<!-- contents -->", contents(lessons))
    (folder / "index.md").write_text(front, encoding="utf-8")


def build(folder: Path) -> int:
    """Build the pages in `folder/site` from scratch; return Sphinx's exit status."""
    source, trees, site = folder / "site-source", folder / "site-trees", folder / "site"
    # MyST-NB writes the pictures of the outputs into jupyter_execute before Sphinx copies them.
    for old in (source, trees, site, folder / "jupyter_execute"):
        shutil.rmtree(old, ignore_errors=True)
    write_source(source)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "-c", str(SETTINGS), "-d", str(trees)]
    return subprocess.run([*command, str(source), str(site)], cwd=ROOT).returncode


def main() -> int:
    """Build the pages and print how to open them."""
    if status := build(ROOT / "build"):
        print("error: Sphinx reported the problems above", file=sys.stderr)
        return status
    python = os.path.relpath(sys.executable, ROOT) if Path(sys.executable).is_relative_to(ROOT) else sys.executable
    print("\nThe pages are in build/site. To look at them, run this and open http://127.0.0.1:8000/ :")
    print(f"  {python} -m http.server 8000 --bind 127.0.0.1 --directory build/site")
    return 0


if __name__ == "__main__":
    sys.exit(main())
