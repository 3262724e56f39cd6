"""Drawings that explain: how labeling works, encoding and decoding, the two networks and their two losses; as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from aslpinn.maps.style import CATEGORICAL

BLUE, ORANGE, GREEN = CATEGORICAL[:3]
INK, FAINT, PALE = "#222222", "#8a8a8a", "#eeeeee"
SIZE = 15  # of letters, in a drawing 700 units wide: on a telephone still above 9 px


@dataclass
class Drawing:
    """A drawing that a notebook shows as SVG; coordinates in units of a 700th of the page's width, y downwards."""

    width: float
    height: float
    parts: list[str] = field(default_factory=list)

    def box(self, x: float, y: float, width: float, height: float, fill: str = "none", edge: str = "none") -> None:
        """A rectangle with slightly round corners."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3" fill="{fill}" stroke="{edge}"/>'
        )

    def path(self, d: str, color: str = INK, width: float = 1.5, dashes: str = "", arrow: bool = False) -> None:
        """A line along the SVG path d."""
        more = f' stroke-dasharray="{dashes}"' if dashes else ""
        more += f' marker-end="url(#to-{color[1:]})"' if arrow else ""
        self.parts.append(f'<path d="{d}" fill="none" stroke="{color}" stroke-width="{width:g}"{more}/>')

    def shape(self, d: str, fill: str) -> None:
        """The area inside the SVG path d."""
        self.parts.append(f'<path d="{d}" fill="{fill}"/>')

    def text(self, x: float, y: float, words: str, color: str = INK, at: str = "middle", bold: bool = False) -> None:
        """Words whose baseline is at y; a letter or word after "_" is set lower, up to a space: "T_1"."""
        spans: list[str] = []
        low = False
        for piece in words.replace("_", " _").split(" "):
            lowered = piece.startswith("_")
            shift = 4 if lowered and not low else -4 if low and not lowered else 0
            space = "" if lowered or not spans else " "
            style = ' font-size="13.2"' if lowered else ""
            move = f' dy="{shift}"' if shift else ""
            spans.append(f"<tspan{move}{style}>{space}{escape(piece.removeprefix('_'))}</tspan>")
            low = lowered
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{color}" text-anchor="{at}"{weight} xml:space="preserve">'
            f"{''.join(spans)}</text>"
        )

    def _repr_svg_(self) -> str:
        heads = "".join(
            f'<marker id="to-{color[1:]}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="{color}"/></marker>'
            for color in (INK, FAINT, BLUE, ORANGE, GREEN)
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:g}" height="{self.height:g}" '
            f'viewBox="0 0 {self.width:g} {self.height:g}" font-family="DejaVu Sans, Verdana, sans-serif" '
            f'font-size="{SIZE}"><defs>{heads}</defs><rect width="100%" height="100%" fill="white"/>'
            f"{''.join(self.parts)}</svg>"
        )


def labeling(tau: float, pld: float, att: float) -> Drawing:
    """A pCASL experiment at three moments, and its timeline: labeling duration, delay and arrival in s."""
    drawing = Drawing(700, 448)
    moments = (
        (0.6 * att, "labeling"),
        (tau, "the last blood is labeled"),
        (tau + pld, "readout"),
    )
    for k, (moment, name) in enumerate(moments):
        _head(drawing, 40 + 225 * k, moment, tau, att)
        drawing.text(125 + 225 * k, 26, name, bold=True)
        drawing.text(125 + 225 * k, 262, f"t = {moment:.1f} s")
    drawing.text(170, 221, "labeling plane", at="start")
    drawing.text(216, 60, "voxel", at="start")
    drawing.path("M212 58 L170 76", FAINT)

    left, scale = 96, 500 / (tau + pld)

    def x(t: float) -> float:
        return left + scale * t

    def bar(y: float, start: float, end: float, color: str, words: str) -> None:
        drawing.box(x(start), y, x(end) - x(start), 26, color)
        drawing.text((x(start) + x(end)) / 2, y + 18, words, "white" if color != PALE else INK)

    drawing.text(left - 10, 308, "neck", at="end")
    bar(290, 0, tau, BLUE, "labeling, τ")
    bar(290, tau, tau + pld, PALE, "delay, PLD")
    drawing.text(left - 10, 350, "voxel", at="end")
    drawing.path(f"M{x(0)} 345 H{x(att) - 2}", INK, arrow=True)
    drawing.text((x(0) + x(att)) / 2, 338, "ATT")
    bar(332, att, att + tau, ORANGE, "label arrives, for τ")
    drawing.path(f"M{x(tau + pld)} 284 V372", INK, 2.5)
    drawing.text(x(tau + pld) + 8, 350, "readout", at="start")
    drawing.path(f"M{x(0)} 384 H{x(tau + pld) + 20}", FAINT, arrow=True)
    marks = {0.0: "0", att: "ATT", tau: "τ", att + tau: "ATT + τ", tau + pld: "τ + PLD"}
    for t, words in marks.items():
        drawing.path(f"M{x(t)} 380 V388", FAINT)
        drawing.text(x(t), 406, words)
    drawing.text(x((tau + pld) / 2), 434, "time since labeling began, t")
    return drawing


def _head(drawing: Drawing, x: float, moment: float, tau: float, att: float) -> None:
    """Head, neck, one artery to one voxel, and where labeled blood is at a moment; 170 wide, from y = 40 to 240."""
    drawing.shape(
        f"M{x + 60} 240 V190 C{x + 5} 175 {x + 8} 44 {x + 85} 44 C{x + 162} 44 {x + 165} 175 {x + 110} 190 V240 z", PALE
    )
    plane, voxel = 216.0, (x + 112.0, 84.0)
    artery = f"M{x + 85} 240 V176 C{x + 85} 140 {x + 112} 136 {voxel[0]} {voxel[1] + 13}"
    below, length = 240 - plane, 151.0  # of the path: up to the plane, and in all
    drawing.path(artery, "#d9a6a6", 7)
    front = below + (length - below) * min(moment / att, 1)
    tail = below + (length - below) * min(max(moment - tau, 0) / att, 1)
    if front > tail:
        drawing.path(artery, BLUE, 7, f"0 {tail:g} {front - tail:g} 400")
    arrived = min(max(moment - att, 0), tau)
    drawing.box(voxel[0] - 13, voxel[1] - 13, 26, 26, "white", INK)
    drawing.box(voxel[0] - 12, voxel[1] + 12 - 24 * arrived / tau, 24, 24 * arrived / tau, ORANGE)
    on = moment <= tau
    drawing.path(f"M{x + 46} {plane} H{x + 124}", BLUE if on else FAINT, 3, "" if on else "5 4")


def encoding(matrix: NDArray[np.integer]) -> Drawing:
    """A Hadamard plan (N, N - 1) as what is labeled in each image, the image that it makes, and how to decode."""
    images, blocks = matrix.shape
    left, right = 104, 420
    drawing = Drawing(700, 64 + 40 * images + 54 + 34 * blocks)
    drawing.text(left, 26, "labeling, then the readout", at="start", bold=True)
    drawing.text(right, 26, "image", at="start", bold=True)
    drawing.text(left - 8, 54, "sub-bolus", at="end")
    for v, signs in enumerate(matrix):
        y = 66 + 40 * v
        for k, sign in enumerate(signs):
            if v == 0:
                drawing.text(left + 33 + 70 * k, 54, str(k + 1))
            drawing.box(left + 70 * k, y, 66, 28, PALE if sign > 0 else BLUE)
            words, color = ("control", INK) if sign > 0 else ("label", "white")
            drawing.text(left + 33 + 70 * k, y + 20, words, color)
        drawing.path(f"M{left + 6 + 70 * blocks} {y + 14} H{right - 16}", FAINT, arrow=True)
        missing = "".join(f" − m_{k + 1}" for k, sign in enumerate(signs) if sign < 0)
        drawing.text(right, y + 20, f"I_{v + 1} = I_0{missing}", at="start")
    top = 66 + 40 * images + 24
    drawing.text(left, top, "decoding", at="start", bold=True)
    for k, signs in enumerate(matrix.T):
        y = top + 30 + 34 * k
        terms = "".join(f"{' + ' if sign > 0 else ' − '}I_{v + 1}" for v, sign in enumerate(signs)).removeprefix(" + ")
        drawing.text(left, y, f"{terms} = {images // 2} m_{k + 1}", at="start")
        drawing.text(right, y, f"signs of column {k + 1}", "#555555", at="start")
    return drawing


def networks() -> Drawing:
    """The paper's two networks on one encoding, and the data term and the physics term that train them."""
    drawing = Drawing(700, 376)

    def block(x: float, y: float, lines: Sequence[str], color: str, width: float = 112) -> None:
        drawing.box(x, y, width, 22 * len(lines) + 14, "white", color)
        for k, words in enumerate(lines):
            drawing.text(x + width / 2, y + 22 + 22 * k, words)

    drawing.path("M4 46 H274 V324 H4 Z", GREEN, 1.5, "6 4")
    block(14, 152, ["x, y, z", "encoding"], INK, 96)
    block(150, 60, ["f_tissue", "network"], BLUE)
    block(150, 244, ["f_ode", "network"], ORANGE)
    drawing.path("M110 168 L146 108", FAINT, arrow=True)
    drawing.path("M110 196 L146 256", FAINT, arrow=True)
    drawing.text(206, 20, "t", bold=True)
    drawing.path("M206 26 V56", FAINT, arrow=True)
    block(330, 20, ["signal"], BLUE)
    block(330, 108, ["slope, ∂/∂t"], BLUE)
    drawing.path("M262 80 L326 44", BLUE, arrow=True)
    drawing.path("M262 96 L326 122", BLUE, arrow=True)
    block(330, 255, ["CBF, ATT"], ORANGE)
    drawing.path("M262 273 H326", ORANGE, arrow=True)
    block(330, 184, ["Buxton: P"], ORANGE)
    drawing.path("M386 255 V224", ORANGE, arrow=True)
    block(530, 6, ["measured s"], INK, 140)
    block(520, 76, ["data term", "s − signal"], GREEN, 160)
    block(520, 160, ["physics term", "slope − P"], GREEN, 160)
    drawing.path("M600 42 V72", FAINT, arrow=True)
    drawing.path("M442 42 L516 92", FAINT, arrow=True)
    drawing.path("M442 130 L516 178", FAINT, arrow=True)
    drawing.path("M442 202 L516 192", FAINT, arrow=True)
    block(520, 262, ["loss: mean squares,", "weighted and added"], INK, 168)
    drawing.path("M680 106 H694 V240 L654 258", FAINT, arrow=True)
    drawing.path("M600 218 V258", FAINT, arrow=True)
    drawing.path("M604 320 V346 H140 V328", GREEN, 1.5, "6 4", arrow=True)
    drawing.text(372, 366, "training: a small step down the gradient of the loss", GREEN)
    return drawing
