"""Configuration of the documentation.

    python -m sphinx -W --keep-going -b html docs docs/_build/html

reads no network and runs no example: pictures are shipped, and `python docs/pictures.py` makes
them anew. `-D plot_gallery=1` runs the examples for pages with all their pictures.
"""

import inspect
import re
import tomllib
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging

import sklrp

project = "sklrp"
author = "The sklrp developers"
project_copyright = author
version = release = sklrp.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
DOCS = Path(__file__).parent
PROJECT = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT.get("urls", {}).get("Source", "")

exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
default_role = "obj"  # `plan` in a docstring links to it
highlight_language = "none"
suppress_warnings = ["ref.citation"]  # a module's references are there to be read, not cited

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# One page for each public object, listed in the tables of the page of its module.
autosummary_ignore_module_all = False
autosummary_imported_members = True
# What users import from `sklrp` itself is listed there and not again with its module.
autosummary_context = {
    "at_the_top": [
        f"{module.__name__}.{name}"
        for module in vars(sklrp).values()
        if inspect.ismodule(module)
        for name in getattr(module, "__all__", ())
        if name in sklrp.__all__ and getattr(sklrp, name) is getattr(module, name)
    ]
}
autodoc_member_order = "groupwise"
autodoc_typehints = "none"  # the docstrings say more
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False  # the templates do

plot_gallery = "False"
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "backreferences_dir": "gallery/backreferences",
    "doc_module": "sklrp",
    "reference_url": {"sklrp": None},
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,
}

html_theme = "pydata_sphinx_theme"
html_title = f"sklrp {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_sidebars = {"index": [], "examples": [], "recipes": []}  # they are laid out by themselves
html_theme_options = {
    "header_links_before_dropdown": 7,
    "logo": {"text": f"sklrp {release}"},
    "show_prev_next": True,
    "use_edit_page_button": REPOSITORY.startswith("https://github.com/"),
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
if html_theme_options["use_edit_page_button"]:
    _, github_user, github_repo = (
        REPOSITORY.removeprefix("https:/").removesuffix("/").rsplit("/", 2)
    )
    html_context = {
        "github_user": github_user,
        "github_repo": github_repo,
        "github_version": "main",
        "doc_path": "docs",
    }
    html_theme_options["github_url"] = REPOSITORY


def skip_inherited(app, what, name, obj, skip, options):
    """Leave out what other packages document themselves, such as ``set_fit_request``."""
    module = getattr(inspect.unwrap(obj), "__module__", None) if callable(obj) else None
    return True if (module or "").startswith(("sklearn.", "skorch.", "torch.")) else None


def escape_shapes(app, what, name, obj, options, lines):
    """Escape what reStructuredText would read as markup in ``of shape (n, *sample_shape)``."""
    for i, line in enumerate(lines):
        if "of shape" in line and "`" not in line:
            lines[i] = re.sub(r"(\*|_\b)", r"\\\1", line)


def demote_references(app, what, name, obj, options, lines):
    """Turn the section of a module's references, which numpydoc leaves alone, into a rubric."""
    if what == "module" and "References" in lines:
        start = lines.index("References")
        lines[start : start + 2] = [".. rubric:: References", ""]


def show_shipped_picture(app, docname, source):
    """Show the picture that `pictures.py` made of an example, where none was run for its own."""
    folder, _, name = docname.partition("/")
    shipped = DOCS / "images" / "examples" / f"{name}.png"
    if folder == "gallery" and shipped.exists() and app.config.plot_gallery in ("False", 0):
        title = re.search(r"^(.+)\n=+\n\n", source[0], re.MULTILINE)
        words = f"What the example draws: {title[1]}"
        picture = f".. image:: /images/examples/{name}.png\n   :alt: {words}\n\n"
        source[0] = source[0][: title.end()] + picture + source[0][title.end() :]


def name_pictures(app, doctree, docname):
    """Let a picture without words be called by the title of its card or example."""
    for picture in doctree.findall(nodes.image):
        if picture.get("alt"):
            continue
        example = re.search(r"(plot_\w+)_thumb", picture["uri"])
        if example is not None:
            picture["alt"] = app.env.titles[f"gallery/{example[1]}"].astext()
            continue
        card = picture.parent
        while card is not None and "sd-card" not in card.get("classes", []):
            card = card.parent
        for node in () if card is None else card.findall(nodes.Element):
            if "sd-card-title" in node.get("classes", []):
                picture["alt"] = node.astext()
        if not picture.get("alt"):
            logging.getLogger(__name__).warning("a picture without words", location=picture)


def visit_math(self, node):
    """Write a formula as MathML, which a browser draws without a script from the network."""
    tex = node.astext().replace(r"\dots", r"\ldots")
    try:
        mathml = latex2mathml.tex2mathml(tex, as_block=isinstance(node, nodes.math_block))
    except MathError as error:
        logging.getLogger(__name__).warning("%s: %s", error, tex, location=node)
        mathml = self.encode(tex)
    self.body.append(mathml)
    raise nodes.SkipNode


def setup(app):
    """Connect the handlers, those of docstrings before numpydoc's."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.connect("source-read", show_shipped_picture)
    app.connect("doctree-resolved", name_pictures)
    app.connect("autodoc-skip-member", skip_inherited)
    app.connect("autodoc-process-docstring", escape_shapes, priority=400)
    app.connect("autodoc-process-docstring", demote_references, priority=400)
