"""A model card in Markdown and HTML, which tells what a pushed model is and can do.

After Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019).
"""

import html
import json
from pathlib import Path

import jinja2
import markdown

from components.artifacts import FACTS_FILE
from data.settings_file import as_yaml

MARKDOWN_FILE = "model_card.md"
HTML_FILE = "model_card.html"

_WEAKEST = 3
# Classes with a lower AP get a warning.
_WEAK_BELOW = 0.8


def write_model_card(facts: dict, folder: Path) -> None:
    """Writes model_card.md, model_card.html and facts.json into an existing folder.

    facts: as `gather_facts` returns them.
    """
    text = card_markdown(facts)
    files = {
        MARKDOWN_FILE: text,
        HTML_FILE: card_html(text),
        FACTS_FILE: json.dumps(facts, indent=1, allow_nan=False) + "\n",
    }
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")


def card_markdown(facts: dict) -> str:
    """The card's text."""
    classes = facts["evaluation"]["classes"]
    measured = [entry for entry in classes if entry["ap"]["value"] is not None]
    weak = [entry for entry in measured if entry["ap"]["value"] < _WEAK_BELOW]
    weakest = sorted(weak, key=lambda entry: entry["ap"]["value"])[:_WEAKEST]
    unmeasured = [entry["name"] for entry in classes if entry["ap"]["value"] is None]
    template = _environment().get_template("model_card.md")
    configuration = as_yaml({name: facts["model"][name] for name in ("preset", "trainer")})
    return template.render(
        facts=facts,
        weakest=weakest,
        weak_below=_WEAK_BELOW,
        unmeasured=unmeasured,
        configuration=configuration,
    )


def card_html(text: str) -> str:
    """The card as a standalone page."""
    body = markdown.markdown(text, extensions=["tables", "fenced_code"])
    return _environment().get_template("model_card.html").render(body=body)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters.update(cell=_cell, score=_score, interval=_interval, change=_change)
    return environment


def _cell(value: object) -> str:
    """Escapes text for a Markdown table cell."""
    return html.escape(str(value), quote=False).replace("|", "\\|").replace("\n", " ")


def _score(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _interval(score: dict) -> str:
    """A score with its interval, if any."""
    if score["low"] is None or score["high"] is None:
        return _score(score["value"])
    return f"{_score(score['value'])} ({score['low']:.3f} to {score['high']:.3f})"


def _change(score: dict) -> str:
    """A change with its interval, if any."""
    if score["value"] is None:
        return _score(None)
    if score["low"] is None or score["high"] is None:
        return f"{score['value']:+.3f}"
    return f"{score['value']:+.3f} ({score['low']:+.3f} to {score['high']:+.3f})"
