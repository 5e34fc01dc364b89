"""What tools/pages.py changes for the published pages, and what Sphinx makes of it with the settings in docs/site."""

import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass

import index
import nbformat
import pages
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

LESSONS = index.lessons()
LESSON = LESSONS["02_learning_rate"]
HEADING = "1. What is `2/λ`, and why?"
# The smallest PNG: a single pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def picture(alt: str, text: str = "<Figure>"):
    return new_output(
        "display_data", data={"image/png": PIXEL, "text/plain": text}, metadata={"image/png": {"alt": alt}}
    )


def small_lesson():
    card = '<a href="04_zero_grad.ipynb">lesson</a> <a href="https://a.b/x.ipynb">x</a>'
    notebook = new_notebook(
        cells=[
            new_markdown_cell(f"# {LESSON.question}\n\nText."),
            new_markdown_cell(f"## {HEADING}"),
            new_code_cell("lab = OneLab()\nlab", outputs=[picture("Many\ncurves.", "OneLab: run the cell, then")]),
            new_code_cell("plots.show(ax)", outputs=[picture("One curve.")]),
            new_code_cell("%%doctor\ntrain()", outputs=[new_output("execute_result", data={"text/html": card})]),
        ]
    )
    pages.for_the_web(notebook, LESSON)
    return notebook


# What changes in a lesson.


def test_the_title_has_the_number_that_other_lessons_use():
    assert small_lesson().cells[0].source == "# 02 · Is 0.01 large or small?\n\nText."


def test_a_note_follows_a_still_lab_and_no_other_picture():
    texts = [cell.source for cell in small_lesson().cells]
    assert texts.count(pages.STILL) == 1
    assert texts[texts.index(pages.STILL) - 1].startswith("lab = ")


def test_links_inside_outputs_lead_to_pages_and_others_stay():
    html = small_lesson().cells[-1].outputs[0].data["text/html"]
    assert html == '<a href="04_zero_grad.html">lesson</a> <a href="https://a.b/x.ipynb">x</a>'


def test_two_pictures_in_one_cell_are_an_error():
    notebook = new_notebook(cells=[new_code_cell("show()", outputs=[picture("a"), picture("b")])])
    with pytest.raises(ValueError, match=r"Cell 0 of 02_learning_rate\.ipynb stores 2 pictures, .* in its own cell"):
        pages.for_the_web(notebook, LESSON)


# What Sphinx gets.


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages") / "source"
    pages.write_source(folder)
    return folder


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_keeps_its_code_and_stored_outputs_and_a_note_follows_each_lab(name, source):
    stored = nbformat.read(index.ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    cells = nbformat.read(source / "notebooks" / f"{name}.ipynb", as_version=4).cells
    ours, theirs = ([(c.source, len(c.outputs)) for c in each if c.cell_type == "code"] for each in (cells, stored))
    assert ours == theirs
    labs = [
        number
        for number, cell in enumerate(cells)
        if cell.cell_type == "code" and re.search(r"^\w+ = \w+Lab\(", cell.source, re.MULTILINE) and cell.outputs
    ]
    assert labs
    assert [number - 1 for number, cell in enumerate(cells) if cell.source == pages.STILL] == labs


def test_the_front_page_names_every_lesson_and_every_document(source):
    front = (source / "index.md").read_text(encoding="utf-8")
    for name, lesson in LESSONS.items():
        assert f"[{name[:2]} · {lesson.question}](notebooks/{name}.ipynb)" in front
        assert lesson.abilities[-1] in front
    for name in pages.DOCUMENTS:
        assert f"\ndocs/{name}\n" in front
        assert (source / "docs" / f"{name}.md").exists()
    assert "<!--" not in front


# What Sphinx makes of two small pages with mistakes.

FRONT = f"""# Front

```{{toctree}}
notebooks/02_small
```

[a heading](notebooks/02_small.ipynb#{index.anchor(HEADING)}), [a file](README.md#two-commands), the path .../logs, and
$\\tfrac{{2}}{{\\lambda}}$.

[x](notebooks/03_none.ipynb), [x](notebooks/02_small.ipynb#9.-None), ![x](none.png)
"""


@dataclass(frozen=True)
class Built:
    """Two pages that Sphinx built, its exit status and its warnings."""

    front: str
    lesson: str
    status: int
    warnings: str


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    (folder / "notebooks").mkdir()
    nbformat.write(small_lesson(), folder / "notebooks" / "02_small.ipynb")
    (folder / "index.md").write_text(FRONT, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-W", "-c", pages.SETTINGS, "-d", folder / "trees", folder]
    done = subprocess.run([*command, folder / "html"], capture_output=True, text=True)
    front, lesson = ((folder / "html" / f"{n}.html").read_text("utf-8") for n in ("index", "notebooks/02_small"))
    return Built(front, lesson, done.returncode, done.stderr)


def test_exactly_the_links_that_lead_nowhere_are_errors(built):
    assert built.status != 0
    mistakes = [line.partition("WARNING: ")[2] for line in built.warnings.splitlines() if "WARNING: " in line]
    assert sorted(re.sub(r" \[.*", "", mistake) for mistake in mistakes) == [
        "'myst' cross-reference target not found: 'notebooks/03_none.ipynb'",
        "image file not readable: none.png",
        "local id not found in doc 'notebooks/02_small': '9.-None'",
    ]


def test_a_link_to_a_heading_in_the_style_of_jupyterlab_finds_it(built):
    target = re.search(r'href="notebooks/02_small\.html#([^"]+)"[^>]*><span[^>]*>a heading', built.front)[1]
    assert f'id="{target}"' in built.lesson


def test_a_link_to_a_file_that_is_not_a_page_becomes_its_words(built):
    assert re.search(r"<span[^>]*>a file</span>", built.front)
    assert not re.search(r'href="[^"]*README', built.front)


def test_formulas_dots_and_alt_texts_reach_the_page(built):
    assert re.search(r"<mfrac[^>]*>\s*<mn>2</mn>\s*<mi>λ</mi>", built.front)
    assert "the path .../logs," in built.front
    assert re.findall(r'<img alt="([^"]+)"', built.lesson) == ["Many curves.", "One curve."]


# The commands.


@pytest.mark.parametrize("status", [0, 2])
def test_the_command_prints_how_to_open_the_pages_or_that_it_failed(status, monkeypatch, capsys):
    monkeypatch.setattr(pages, "build", lambda folder: status)
    assert pages.main() == status
    printed = capsys.readouterr()
    assert ("http.server 8000 --bind 127.0.0.1 --directory build/site" in printed.out) == (status == 0)
    assert ("error: Sphinx reported" in printed.err) == (status != 0)


def test_the_workflow_installs_what_the_pages_need():
    workflow = (pages.ROOT / ".github" / "workflows" / "site.yml").read_text(encoding="utf-8")
    project = tomllib.loads((pages.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split("[<>=]", name)[0] for name in project["optional-dependencies"]["site"]]
    assert f"pip install --constraint constraints.txt {' '.join(names)}\n" in workflow
    assert "run: python tools/pages.py\n" in workflow
