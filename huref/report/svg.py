"""Drawings as SVG: in a file of their own, or inside a page that embeds each dog once."""

from xml.etree import ElementTree as Xml

from huref.escape import printable
from huref.report.canvas import Area, Box, Canvas, Disc, Dog, Line, Mark, Point, Words
from huref.report.palette import light, stylesheet
from huref.report.portraits import ROUNDING, Portraits

FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def as_svg(canvas: Canvas, portraits: Portraits) -> str:
    """A self-contained SVG file; dark where the reader prefers it."""
    root = _root(canvas)
    Xml.SubElement(root, "style").text = stylesheet()
    clip = {"id": "round", "clipPathUnits": "objectBoundingBox"}
    corners = {"width": "1", "height": "1", "rx": str(ROUNDING)}
    Xml.SubElement(Xml.SubElement(root, "clipPath", clip), "rect", corners)
    size = {"width": "100%", "height": "100%", "fill": light("paper"), "class": "f-paper"}
    Xml.SubElement(root, "rect", size)
    _draw(root, canvas, portraits, inline=False)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode")


def as_inline_svg(canvas: Canvas, portraits: Portraits) -> str:
    """An <svg> element for a page with `palette.stylesheet` and the symbols dog-0, dog-1, ..."""
    root = _root(canvas)
    _draw(root, canvas, portraits, inline=True)
    return Xml.tostring(root, encoding="unicode")


def _root(canvas: Canvas) -> Xml.Element:
    root = Xml.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": _number(canvas.width),
            "height": _number(canvas.height),
            "viewBox": f"0 0 {_number(canvas.width)} {_number(canvas.height)}",
            "role": "img",
            "aria-label": printable(f"{canvas.title}. {canvas.description}".strip()),
            "font-family": FONT,
        },
    )
    Xml.SubElement(root, "title").text = printable(canvas.title)
    return root


def _draw(root: Xml.Element, canvas: Canvas, portraits: Portraits, *, inline: bool) -> None:
    for mark in canvas.marks:
        if isinstance(mark, Dog):
            element = _dog(root, mark, portraits.uris[mark.model], inline)
        else:
            element = _shape(root, mark)
        if not isinstance(mark, Area) and mark.tip:
            Xml.SubElement(element, "title").text = printable(mark.tip)


def _shape(root: Xml.Element, mark: Mark) -> Xml.Element:
    match mark:
        case Box():
            place = _place(mark.x, mark.y) | {
                "width": _number(mark.width),
                "height": _number(mark.height),
            }
            look = _stroke(mark.paint, 1.0) if mark.outlined else _fill(mark.paint, mark.opacity)
            return Xml.SubElement(root, "rect", place | look)
        case Line():
            look = _stroke(mark.paint, mark.width) | {"stroke-linejoin": "round"}
            if mark.dashed:
                look["stroke-dasharray"] = "5 4"
            return Xml.SubElement(root, "polyline", {"points": _points(mark.points)} | look)
        case Area():
            place = {"points": _points(mark.points)}
            return Xml.SubElement(root, "polygon", place | _fill(mark.paint, 1.0))
        case Disc():
            place = {
                "cx": _number(mark.x), "cy": _number(mark.y), "r": _number(mark.radius),
            }  # fmt: skip
            look = _fill(mark.paint, 1.0) if mark.filled else _stroke(mark.paint, 1.8)
            return Xml.SubElement(root, "circle", place | look)
        case Words():
            place = _place(mark.x, mark.y) | {
                "font-size": _number(mark.size),
                "text-anchor": mark.align,
                "dominant-baseline": "central",
            }
            if mark.upright:
                place["transform"] = f"rotate(-90 {_number(mark.x)} {_number(mark.y)})"
            element = Xml.SubElement(root, "text", place | _fill(mark.paint, 1.0))
            element.text = printable(mark.text)
            return element
    raise TypeError(f"no such mark: {mark!r}")


def _dog(root: Xml.Element, mark: Dog, uri: str | None, inline: bool) -> Xml.Element:
    size = {"width": _number(mark.side), "height": _number(mark.side)}
    if uri is None:
        look = _stroke("line", 1.0) | {"rx": _number(mark.side / 7)}
        return Xml.SubElement(root, "rect", _place(mark.x, mark.y) | size | look)
    place = _place(mark.x, mark.y) | size
    if inline:
        return Xml.SubElement(root, "use", place | {"href": f"#dog-{mark.model}"})
    return Xml.SubElement(root, "image", place | {"href": uri, "clip-path": "url(#round)"})


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _place(x: float, y: float) -> dict[str, str]:
    return {"x": _number(x), "y": _number(y)}


def _points(points: tuple[Point, ...]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _fill(paint: str, opacity: float) -> dict[str, str]:
    # The attribute is for programs without CSS support; elsewhere the class overrides it.
    look = {"fill": light(paint), "class": f"f-{paint}"}
    return look if opacity == 1.0 else look | {"fill-opacity": f"{opacity:.3f}"}


def _stroke(paint: str, width: float) -> dict[str, str]:
    return {
        "fill": "none",
        "stroke": light(paint),
        "stroke-width": _number(width),
        "class": f"s-{paint}",
    }
