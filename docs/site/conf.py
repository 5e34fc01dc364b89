"""Sphinx's settings for the published pages, which tools/pages.py builds."""

import posixpath
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))  # MyST asks `pages` for the names of headings

project = "The Training Loop, Line by Line"
language = "en"
extensions = ["myst_nb"]
templates_path = ["templates"]
html_static_path = ["static"]
# Keep `...` in a path and quotation marks as they are in the lesson.
smartquotes = False

# Show the stored outputs, which are tested.
nb_execution_mode = "off"
myst_heading_anchors = 3
myst_heading_slug_func = "pages.anchor"
# A formula between dollars, as in JupyterLab. Browsers draw MathML themselves, so nothing has to be loaded.
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
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": project},
    "navbar_center": [],
    "article_header_start": [],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["license"],
    "footer_end": [],
    "search_bar_text": "Search the lessons",
    "search_as_you_type": True,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


class LinksToOtherFiles(SphinxPostTransform):
    """Replace a link to a file of the repository that is not a page by its words."""

    default_priority = 8  # before MyST looks for the file among the pages, at priority 9

    def run(self) -> None:
        for link in list(self.document.findall(pending_xref)):
            if link["reftype"] != "myst" or link.get("refdomain"):
                continue
            path = link["reftarget"].partition("#")[0]
            path = posixpath.normpath(posixpath.join(posixpath.dirname(link["refdoc"]), path))
            if not path.startswith("..") and (ROOT / path).exists():  # otherwise MyST warns about it
                link.replace_self(link.children)


def inline_formula(writer, node):
    """Write a formula inside a line."""
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def formula(writer, node):
    """Write a formula on its own line."""
    writer.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app):
    """Register what this file defines with Sphinx."""
    app.add_post_transform(LinksToOtherFiles)
    app.add_html_math_renderer("mathml", (inline_formula, None), (formula, None))
