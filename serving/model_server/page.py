"""The page for browsers: `page.html` with models and colours filled in."""

import json
from collections.abc import Sequence
from pathlib import Path

from data.palette import PALETTE, text_colour

_TEMPLATE = Path(__file__).with_name("page.html")


def fill_page(models: Sequence[str]) -> str:
    """The page for these models."""
    colours = [(colour, text_colour(colour)) for colour in PALETTE]
    page = _TEMPLATE.read_text(encoding="utf-8")
    for place, value in {"/*MODELS*/[]": models, "/*PALETTE*/[]": colours}.items():
        page = page.replace(place, json.dumps(value).replace("<", "\\u003c"))
    return page
