"""The drawings that explain: well-formed, inside their frame, with letters that a telephone can show."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from aslpinn.physics import hadamard
from aslpinn_book.chapters import drawings

NARROWEST = 480 / 700  # of a unit on a telephone: figures there are 480 px wide at least, and scroll in their box
DRAWN = {
    "labeling": lambda: drawings.labeling(1.8, 1.8, 1.0),
    "encoding": lambda: drawings.encoding(hadamard.matrix("Hadamard", 4)),
    "networks": drawings.networks,
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_drawing_stays_inside_its_frame_with_letters_of_9_px(name):
    drawing = DRAWN[name]()
    root = ElementTree.fromstring(drawing._repr_svg_())
    space = "{http://www.w3.org/2000/svg}"
    words = list(root.iter(f"{space}text"))
    assert len(words) > 10
    letters = float(root.get("font-size"))
    sizes = [float(span.get("font-size", letters)) for word in words for span in word]
    assert min(sizes) * NARROWEST > 9
    for word in words:
        length, x = 0.62 * letters * len("".join(word.itertext())), float(word.get("x"))
        left = x - {"start": 0, "middle": length / 2, "end": length}[word.get("text-anchor")]
        assert 0 <= left <= drawing.width - length, "".join(word.itertext())
        assert 0 < float(word.get("y")) < drawing.height
    for box in root.iter(f"{space}rect"):
        if "x" in box.attrib:
            assert float(box.get("x")) + float(box.get("width")) <= drawing.width
            assert float(box.get("y")) + float(box.get("height")) <= drawing.height


def test_images_are_drawn_as_the_core_encodes_and_decodes_them():
    matrix = hadamard.matrix("Hadamard", 4)
    said = re.sub("<[^>]+>", "", drawings.encoding(matrix)._repr_svg_())
    for v, signs in enumerate(matrix):
        missing = "".join(f" − m{k + 1}" for k, sign in enumerate(signs) if sign < 0)
        assert f"I{v + 1} = I0{missing}" in said
    for k in range(3):
        alone = [float(i == k) for i in range(3)]
        images = hadamard.encode(alone, matrix, 5.0)
        assert (matrix[:, k] * images).sum() == pytest.approx(2.0)
        assert f"= 2 m{k + 1}" in said


def test_label_is_drawn_where_it_is():
    """Before its first blood arrives the voxel is empty; at the readout all of it has arrived."""
    early, late = (drawings.Drawing(700, 448) for _ in range(2))
    drawings._head(early, 0, 0.5, 1.8, 1.0)
    drawings._head(late, 0, 3.6, 1.8, 1.0)
    bar = re.compile(rf'height="([\d.]+)" rx="3" fill="{drawings.ORANGE}"')
    assert [float(bar.search("".join(drawn.parts))[1]) for drawn in (early, late)] == [0, 24]
