"""Helpers for tests of the report's page and tables."""

import csv
import html.parser
import re
from pathlib import Path


class Elements(html.parser.HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def check_contained(text: str) -> Elements:
    """Assert that a page runs no code and loads no other file; return its elements."""
    elements = Elements(text)
    for tag, attributes in elements.found:
        assert tag not in ("script", "iframe", "object", "embed", "link", "form", "base", "svg"), (
            tag
        )
        assert not any(name.startswith("on") for name in attributes), attributes
        for name in ("src", "href"):
            assert re.match(r"data:image/|#", attributes.get(name, "#")), attributes
    assert "url(" not in text and "@import" not in text
    return elements


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    """Return the rows of a table of the report."""
    with open(folder / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
