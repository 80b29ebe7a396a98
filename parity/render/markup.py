"""HTML as text: elements whose attributes and content are escaped."""

from html import escape

VOID = {"img", "link", "meta"}
"""Elements without content or end tag."""


class Markup(str):
    """Text that is already markup, and is not escaped again."""


def element(name: str, /, *content: str | None, **attributes: object) -> Markup:
    """`<name attribute="…">content</name>`; text is escaped, None is left out.

    In names of attributes an underscore becomes a hyphen, and one at the end is dropped.
    """
    own = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{own}>")
    return Markup(f"<{name}{own}>{join(*content)}</{name}>")


def join(*content: str | None) -> Markup:
    """The pieces of content, joined."""
    return Markup("".join(c if isinstance(c, Markup) else escape(c) for c in content if c))
