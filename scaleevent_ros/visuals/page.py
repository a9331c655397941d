"""Self-contained pages of HTML, with tables and pictures."""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING

import cv2

from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.visuals.palette import class_colours

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1f2933; margin: 2rem auto; max-width: 1400px;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
.path { color: #52606d; overflow-wrap: anywhere; margin-top: 0; }
.verdict { border-left: 6px solid; padding: .6rem 1rem; margin: 1rem 0; }
.good { border-color: #2f9e44; background: #ebfbee; } .bad { border-color: #e03131;
  background: #fff5f5; } .so { border-color: #f08c00; background: #fff9db; }
.verdict ul { margin: .3rem 0 0; padding-left: 1.2rem; }
table { border-collapse: collapse; margin: .6rem 0; } th, td { text-align: left;
  padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e4e7eb; vertical-align: top; }
th { font-weight: 600; color: #52606d; white-space: nowrap; }
.columns { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 0 3rem; }
figure { margin: 0; } .plot svg { width: 100%; max-width: 1080px; height: auto; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 1rem; }
.pairs img { width: 50%; display: inline-block; vertical-align: top; }
.strip { table-layout: fixed; } .strip td, .strip th { padding: 2px; border: 0; }
.strip th { text-align: center; } .strip th:first-child { width: 4rem; }
.strip img { display: block; width: 100%; max-width: 320px; }
figcaption, .when { font-size: .85rem; color: #52606d; } .when { white-space: nowrap; }
.why { color: #c92a2a; } img { max-width: 100%; }
"""


def render_page(title: str, place: str, parts: Iterable[str]) -> str:
    """Render a page as HTML.

    Args:
        title: Title of the page, as text.
        place: Subject of the page, such as a path, as text in a line below the title.
        parts: Parts of the body, as HTML.
    """
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<meta name='viewport' content='width=device-width'><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"<p class='path'>{html.escape(place)}</p>{''.join(parts)}</body></html>\n"
    )


def write_page(path: Path, text: str) -> None:
    """Write a page to a file; its folder is created if it is missing.

    Raises:
        ScaleEventError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"cannot write the report {path}: {error.strerror}"
        raise ScaleEventError(msg) from None


def render_table(rows: Iterable[Iterable[str]], titles: Iterable[str] = ()) -> str:
    """Render a table of texts as HTML; the first cell of each row is its name."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = ""
    for name, *values in rows:
        cells = "".join(f"<td>{html.escape(value)}</td>" for value in values)
        body += f"<tr><th>{html.escape(name)}</th>{cells}</tr>"
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def render_picture(
    picture: NDArray[np.uint8], title: str, *, width: int | None = None, codec: str = "png"
) -> str:
    """Render a picture as HTML that contains its pixels.

    Args:
        picture: RGB, uint8 [H, W, 3].
        title: Description of the picture, for the attribute ``alt``.
        width: Width of the picture in pixels; unchanged if None.
        codec: ``png`` or ``jpeg``.
    """
    shown = picture
    if width is not None:
        height = max(width * picture.shape[0] // picture.shape[1], 1)
        shown = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]  # uint8 stays uint8
    _, data = cv2.imencode(f".{codec}", shown[..., ::-1])
    encoded = base64.b64encode(data.tobytes()).decode()
    return f"<img alt='{html.escape(title)}' src='data:image/{codec};base64,{encoded}'>"


def render_classes(names: Sequence[str]) -> str:
    """Render a legend of classes with their colours, in the order of their ids, as HTML."""
    swatches = "".join(
        f"<span style='background: rgb{tuple(colour.tolist())}'>&emsp;</span> "
        f"{html.escape(name)}&ensp;"
        for name, colour in zip(names, class_colours(len(names)), strict=True)
    )
    return f"<p>{swatches}</p>"
