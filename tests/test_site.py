"""What tools/pages.py changes for the published pages, and what Sphinx makes of it under docs/site/conf.py."""

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
# A point, which is the smallest PNG.
POINT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def picture(alt: str, text: str = "<Figure>"):
    return new_output(
        "display_data", data={"image/png": POINT, "text/plain": text}, metadata={"image/png": {"alt": alt}}
    )


def small_lesson():
    notebook = new_notebook(
        cells=[
            new_markdown_cell(f"# {LESSON.question}\n\nText."),
            new_markdown_cell("## 1. What is `2/λ`, and why?"),
            new_code_cell("lab = OneLab()\nlab", outputs=[picture("Many\ncurves.", "OneLab: run the cell, then")]),
            new_code_cell("plots.show(ax)", outputs=[picture("One curve.")]),
            new_code_cell(
                "%%doctor\ntrain()",
                outputs=[
                    new_output(
                        "execute_result",
                        data={
                            "text/html": '<a href="04_zero_grad.ipynb">lesson</a> <a href="https://a.b/x.ipynb">x</a>'
                        },
                    )
                ],
            ),
        ]
    )
    pages.for_the_web(notebook, LESSON)
    return notebook


# What is changed in a lesson.


def test_title_carries_the_number_by_which_lessons_name_each_other():
    assert small_lesson().cells[0].source == "# 02 · Is 0.01 large or small?\n\nText."


def test_a_still_lab_is_named_so_and_a_plot_is_not():
    texts = [cell.source for cell in small_lesson().cells]
    assert texts.count(pages.STILL) == 1
    assert texts[texts.index(pages.STILL) - 1].startswith("lab = ")


def test_pictures_keep_their_alt_text_on_one_line():
    alts = [cell.metadata["mystnb"]["image"]["alt"] for cell in small_lesson().cells if "mystnb" in cell.metadata]
    assert alts == ["Many curves.", "One curve."]


def test_links_inside_outputs_lead_to_pages_and_others_stay():
    html = small_lesson().cells[-1].outputs[0].data["text/html"]
    assert html == '<a href="04_zero_grad.html">lesson</a> <a href="https://a.b/x.ipynb">x</a>'


def test_two_pictures_in_a_cell_are_named():
    notebook = new_notebook(cells=[new_code_cell("show()", outputs=[picture("a"), picture("b")])])
    with pytest.raises(ValueError, match=r"cell 0 of 02_learning_rate\.ipynb stores 2 pictures, .* cell of its own"):
        pages.for_the_web(notebook, LESSON)


# What Sphinx is given.


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages") / "source"
    pages.write_source(folder)
    return folder


def test_every_lesson_is_there_with_its_code_and_its_outputs_as_they_are_stored(source):
    assert {path.stem for path in (source / "notebooks").iterdir()} == LESSONS.keys()
    for name in LESSONS:
        stored = nbformat.read(index.ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        given = nbformat.read(source / "notebooks" / f"{name}.ipynb", as_version=4)
        ours, theirs = ([cell for cell in nb.cells if cell.cell_type == "code"] for nb in (given, stored))
        assert [cell.source for cell in ours] == [cell.source for cell in theirs]
        assert [len(cell.outputs) for cell in ours] == [len(cell.outputs) for cell in theirs]


@pytest.mark.parametrize("name", LESSONS)
def test_each_lab_of_a_lesson_is_followed_by_the_line_that_it_stands_still(name, source):
    cells = nbformat.read(source / "notebooks" / f"{name}.ipynb", as_version=4).cells
    labs = [
        number
        for number, cell in enumerate(cells)
        if cell.cell_type == "code" and re.search(r"^\w+ = \w+Lab\(", cell.source, re.MULTILINE) and cell.outputs
    ]
    assert labs
    assert [number - 1 for number, cell in enumerate(cells) if cell.source == pages.STILL] == labs


def test_front_page_names_every_lesson_and_the_index_every_question(source):
    front, questions = ((source / name).read_text(encoding="utf-8") for name in ("index.md", "questions.md"))
    for name, lesson in LESSONS.items():
        assert f"[{name[:2]} · {lesson.question}](notebooks/{name}.ipynb)" in front
        assert lesson.abilities[-1] in front
    for question in index.questions():
        assert f"| {question['ask']} | [{question['section']}](" in questions
    assert "<!--" not in front + questions


def test_the_page_for_teachers_is_there_where_it_is_written(tmp_path, monkeypatch):
    for name in ("notebooks", "docs/questions.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(index.ROOT / name)
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    pages.write_source(tmp_path / "without")
    assert "docs/class" not in (tmp_path / "without" / "index.md").read_text(encoding="utf-8")
    (tmp_path / "docs" / "class.md").write_text("# A class\n")
    pages.write_source(tmp_path / "with")
    assert "docs/class\n" in (tmp_path / "with" / "index.md").read_text(encoding="utf-8")
    assert (tmp_path / "with" / "docs" / "class.md").exists()


# What Sphinx makes of it, on two small pages: once where the repository has an address, once with mistakes.

ADDRESS = "https://github.com/ada/loop"
FRONT = f"""# Front

```{{toctree}}
notebooks/02_small
```

[a heading](notebooks/02_small.ipynb{index.link("", "1. What is `2/λ`, and why?").removeprefix("notebooks/.ipynb")}),
[a file](README.md#two-commands), the path .../logs, and $\\tfrac{{2}}{{\\lambda}}$.
"""
MISTAKES = """
[x](notebooks/03_none.ipynb), [x](notebooks/02_small.ipynb#9.-None), ![x](none.png)
"""


@dataclass(frozen=True)
class Built:
    """What Sphinx made of two pages, its exit status and its warnings."""

    front: str
    lesson: str
    status: int
    warnings: str


def sphinx(folder, front, *options):
    (folder / "notebooks").mkdir()
    nbformat.write(small_lesson(), folder / "notebooks" / "02_small.ipynb")
    (folder / "index.md").write_text(front, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-W", "-c", pages.SETTINGS, "-d", folder / "trees", *options, folder]
    done = subprocess.run([*command, folder / "html"], capture_output=True, text=True)
    front, lesson = ((folder / "html" / f"{n}.html").read_text("utf-8") for n in ("index", "notebooks/02_small"))
    return Built(front, lesson, done.returncode, done.stderr)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    built = sphinx(tmp_path_factory.mktemp("good"), FRONT, "-D", f"html_context.repository={ADDRESS}")
    assert (built.status, built.warnings) == (0, "")
    return built


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return sphinx(tmp_path_factory.mktemp("bad"), FRONT + MISTAKES)


def test_a_link_to_a_heading_in_the_style_of_jupyterlab_finds_it(good):
    target = re.search(r'href="notebooks/02_small\.html#([^"]+)"[^>]*><span[^>]*>a heading', good.front)[1]
    assert f'id="{target}"' in good.lesson


def test_with_an_address_files_and_lessons_lead_to_the_repository(good):
    assert f'href="{ADDRESS}/blob/HEAD/README.md#two-commands"' in good.front
    assert f'href="{ADDRESS}/blob/HEAD/notebooks/02_small.ipynb"' in good.lesson
    for service, address in index.launches(ADDRESS, "02_small").items():
        assert f'<a href="{address}">Open it in {service}</a>' in good.lesson


def test_without_an_address_nothing_leads_there(bad):
    assert index.read_repository() == ""
    assert re.search(r"<span[^>]*>a file</span>", bad.front)
    assert not re.search(r'href="[^"]*README', bad.front)
    assert not re.search(r"blob/HEAD|Open it in", bad.front + bad.lesson)


def test_a_formula_is_drawn_by_the_browser_itself(good):
    assert re.search(r"<mfrac[^>]*>\s*<mn>2</mn>\s*<mi>λ</mi>", good.front)


def test_dots_in_a_path_stay_dots(good):
    assert "the path .../logs," in good.front


def test_pictures_of_cells_carry_their_alt_text(good):
    assert re.findall(r'<img alt="([^"]+)"', good.lesson) == ["Many curves.", "One curve."]


def test_nothing_is_loaded_from_another_machine(good):
    loaded = re.findall(r'<(?:script|img|link)\b[^>]*\b(?:src|href)="([^"]+)"', good.front + good.lesson)
    assert len(loaded) > 10
    assert [address for address in loaded if "//" in address] == []


@pytest.mark.parametrize(
    "said",
    [
        "cross-reference target not found: 'notebooks/03_none.ipynb'",
        "local id not found in doc 'notebooks/02_small': '9.-None'",
        "image file not readable: none.png",
    ],
)
def test_a_link_that_leads_nowhere_is_an_error(said, bad):
    assert bad.status != 0
    assert said in bad.warnings


# The commands.


@pytest.mark.parametrize("status", [0, 2])
def test_the_command_says_where_the_pages_are_or_that_they_are_not(status, monkeypatch, capsys):
    built = []
    monkeypatch.setattr(pages, "build", lambda folder: built.append(folder) or status)
    assert pages.main() == status
    assert built == [pages.ROOT / "build"]
    said = capsys.readouterr()
    assert ("http.server 8000 --bind 127.0.0.1 --directory build/site" in said.out) == (status == 0)
    assert ("error: Sphinx found" in said.err) == (status != 0)


def test_make_site_installs_what_the_pages_need_and_builds_them():
    makefile = (pages.ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.split("\nsite:")[1].split("\n\n")[0].splitlines()[1:]
    assert recipe == ["\t@$(MAKE_ENV) site", "\t@$(VENV_PYTHON) tools/pages.py"]


def test_the_workflow_installs_what_the_pages_need():
    workflow = (pages.ROOT / ".github" / "workflows" / "site.yml").read_text(encoding="utf-8")
    extra = tomllib.loads((pages.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = [re.split("[<>=]", name)[0] for name in extra["project"]["optional-dependencies"]["site"]]
    assert f"pip install --constraint constraints.txt {' '.join(names)}\n" in workflow
    assert "run: python tools/pages.py\n" in workflow
