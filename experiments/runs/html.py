"""HTML as a tree of elements, whose texts and attributes are escaped whatever is in them."""

import base64
import re
from collections.abc import Iterable
from typing import TypeAlias
from xml.etree import ElementTree

Child: TypeAlias = str | ElementTree.Element | Iterable["Child"]


def tag(name: str, /, *children: Child, **attributes: object) -> ElementTree.Element:
    """Makes an element; "_" stands for the "-" of an attribute, and behind a word of Python: `class_`."""
    element = ElementTree.Element(
        name, {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items()}
    )
    for child in children:
        _add(element, child)
    return element


def _add(element: ElementTree.Element, child: Child) -> None:
    if isinstance(child, ElementTree.Element):
        element.append(child)
    elif not isinstance(child, str):
        for one in child:
            _add(element, one)
    elif len(element):
        element[-1].tail = (element[-1].tail or "") + _printable(child)
    else:
        element.text = (element.text or "") + _printable(child)


def _printable(text: str) -> str:
    """A text with a mark for each character that no file of HTML may have: of control, or half of another."""
    return re.sub(r"[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]", "\ufffd", text)


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], label: str) -> ElementTree.Element:
    """A table with a head, whose first cell in each row names the row; it scrolls by itself where it is too wide.

    `label`: what it is, for those who do not see it.
    """
    top = tag("tr", (tag("th", cell, scope="col") for cell in head))
    body = (tag("tr", tag("th", first, scope="row"), (tag("td", cell) for cell in rest)) for first, *rest in rows)
    within = tag("table", tag("thead", top), tag("tbody", body))
    return tag("div", within, class_="scroll", tabindex="0", role="region", aria_label=label)


def picture(png: bytes, what: str) -> ElementTree.Element:
    """A picture that is in the page itself, with a line beneath."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return tag("figure", tag("img", src=source, alt=what), tag("figcaption", what))


def folded(title: str, *children: Child) -> ElementTree.Element:
    """A part that is shown when its title is chosen."""
    return tag("details", tag("summary", title), *children)


def page(title: str, style: str, *children: Child) -> str:
    """A whole page."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", style),
        tag("link", rel="icon", href="data:,"),
    )
    whole = tag("html", head, tag("body", *children), lang="en")
    return f"<!doctype html>\n{ElementTree.tostring(whole, encoding='unicode', method='html')}\n"
