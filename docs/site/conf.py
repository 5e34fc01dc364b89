"""Sphinx's settings for the published pages, which tools/pages.py builds."""

import posixpath
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))  # for `index`, and for `pages`, which MyST asks for the names of headings
import index  # noqa: E402

REPOSITORY = index.read_repository()

project = "The Training Loop, Line by Line"
language = "en"
extensions = ["myst_nb"]
templates_path = ["templates"]
html_static_path = ["static"]
# `...` in a path stays three dots, and a quotation mark what it is in the lesson.
smartquotes = False

# The outputs are those that are stored and tested.
nb_execution_mode = "off"
myst_heading_anchors = 3
myst_heading_slug_func = "pages.anchor"
# A formula between dollars, as JupyterLab reads it. Browsers draw MathML themselves: nothing is to be loaded.
myst_enable_extensions = ["dollarmath"]
html_math_renderer = "mathml"

html_theme = "pydata_sphinx_theme"
html_title = project
html_css_files = ["site.css"]
html_favicon = "static/loop.svg"
html_copy_source = False
html_show_sourcelink = False
html_use_index = False
html_domain_indices = False
html_sidebars = {"**": ["lesson-list"]}
html_context = {"repository": REPOSITORY, "default_mode": "auto"}
html_theme_options = {
    "logo": {"text": project},
    "navbar_center": [],
    "article_header_start": [],
    "secondary_sidebar_items": ["page-toc", "open-lesson"],
    "footer_start": ["licence"],
    "footer_end": [],
    "search_bar_text": "Search the lessons",
    "search_as_you_type": True,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "icon_links": [{"name": "Repository", "url": REPOSITORY, "icon": "fa-solid fa-code-branch"}] if REPOSITORY else [],
}


class LinksToTheRepository(SphinxPostTransform):
    """Lead a link to a file that is no page to the repository; without an address of it, leave the words alone."""

    default_priority = 8  # before MyST looks for the file among the pages, which it does at 9

    def run(self) -> None:
        repository = self.config.html_context["repository"]
        for link in list(self.document.findall(pending_xref)):
            if link["reftype"] != "myst" or link.get("refdomain"):
                continue
            path, _, heading = link["reftarget"].partition("#")
            path = posixpath.normpath(posixpath.join(posixpath.dirname(link["refdoc"]), path))
            if path.startswith("..") or not (ROOT / path).exists():
                continue  # MyST warns of it
            words = link.children
            if repository:
                address = f"{repository}/blob/HEAD/{path}" + (f"#{heading}" if heading else "")
                words = [nodes.reference("", "", *words, refuri=address)]
            link.replace_self(words)


def inline_formula(writer, node):
    """Write a formula within a line."""
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def formula(writer, node):
    """Write a formula on a line of its own."""
    writer.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def launch_links(app, page, template, context, tree):
    """Give each lesson's page the addresses at which the lesson starts, where the repository has one."""
    if context["repository"] and page.startswith("notebooks/"):
        context["launches"] = index.launches(context["repository"], posixpath.basename(page))


def setup(app):
    """Tell Sphinx of what is defined here."""
    app.add_post_transform(LinksToTheRepository)
    app.connect("html-page-context", launch_links)
    app.add_html_math_renderer("mathml", (inline_formula, None), (formula, None))
