"""Elements that read the same as HTML and as XML, whatever is in the texts.

The text is ASCII, with anything else as numbered references: no encoding can be wrong about it.
"""

import re
from xml.etree.ElementTree import Element, tostring

DOCTYPE = "<!DOCTYPE html>\n"

# What no XML document may hold, in references neither; lone surrogates stand for undecoded bytes.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REPLACEMENT = "\ufffd"

Child = Element | str | None


def element(tag: str, *children: Child, **attributes: str | float | None) -> Element:
    """An element; ``class_`` is the attribute class, ``stroke_width`` stroke-width.

    What is None is left out.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), _attribute(value))
    for child in children:
        _append(made, child)
    return made


def _attribute(value: str | float) -> str:
    return legible(value) if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


def _append(parent: Element, child: Child) -> None:
    if isinstance(child, str):
        if len(parent):
            parent[-1].tail = (parent[-1].tail or "") + legible(child)
        else:
            parent.text = (parent.text or "") + legible(child)
    elif child is not None:
        parent.append(child)


def legible(text: str) -> str:
    """``text`` without what no document may hold."""
    return _ILLEGAL.sub(_REPLACEMENT, text)


def document(root: Element) -> str:
    """The whole page as text."""
    return f"{DOCTYPE}{tostring(root, encoding='us-ascii').decode('ascii')}\n"
