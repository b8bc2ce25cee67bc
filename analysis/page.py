"""A page of a report: its template, its scripts, and the rule that lets no other script run.

Knows Jinja, Bokeh's script and the page's own. Never knows what a report says. The page needs no network; names and
errors in rows are untrusted text, so the template escapes everything and the page names the hash of each script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bokeh.resources import Resources
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.drawing import Drawing
from analysis.explore import Explorer

_HERE = Path(__file__).parent


def write_page(
    folder: Path, template: str, drawings: Mapping[str, Drawing | None], explorer: Explorer | None, **values: Any
) -> Path:
    """Write ``index.html`` from ``template``, with ``figures/`` beside it, and return its path.

    Drawings that are ``None`` are left out; ``values`` are the template's own.
    """
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    pictures = {
        name: {"svg": Markup(drawing.save(figures, name)), "title": drawing.title, "name": name}
        for name, drawing in drawings.items()
        if drawing is not None
    }
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    scripts = [(_HERE / "report.js").read_text(encoding="utf-8")]
    if explorer is not None:
        # Only the part of Bokeh that draws: no widgets, tables or WebGL, and nothing from a server.
        scripts = [*Resources(mode="inline", components=["bokeh"]).js_raw[:1], *scripts]
    page = environment.get_template(template).render(
        pictures=pictures,
        explorer=explorer,
        explorer_item=None if explorer is None else _data_block(explorer.item),
        explorer_settings=None if explorer is None else _data_block(explorer.settings),
        scripts=[Markup(script) for script in scripts],
        script_hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
        **values,
    )
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _data_block(record: Mapping[str, Any]) -> Markup:
    """JSON inside a script element that no name in it can close."""
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
