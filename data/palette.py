"""The colour of each class, shared by drawings, report, the server's page and contact sheet."""

# Each is the colour of (nearly) full saturation farthest in CIE Lab from all before it: 33 units or
# more among the first 20, the number of VOC's classes. COCO has 80.
_COLOURS = """
    ff3333 00ff00 3333ff 11eeff 777700 ffaaff 00cc77 ff11ee 1155bb eeee00
    ff9900 bb0066 bb6644 ffdd88 22aaee 9933aa 77bb11 007744 ff88aa bbee99
    7766ff aaff00 ff55cc ccaa00 9999ee 00ff77 ff2266 44ccaa cc5500 bb00ff
    008811 aa66aa bb3344 ddee66 dd9944 dd66ff 22cc11 8822cc 99ff66 bb88ff
    669944 885500 ff7766 00ffcc aa4466 2299ff ff0099 aaaa55 ff5500 cc11bb
    aa3388 99aa11 88ff99 1177ff bb2211 6644bb 336600 ff88ff ff5599 66cc55
    ff9966 774499 33ffee ffdd33 77dd99 bbdd22 dd66aa 0044ee ffbb00 aa8811
    ff0000 ddcc55 ee6677 00ffaa 44aa66 cc7700 bb66cc 66ff44 aaee77 cc0033
"""
PALETTE = tuple(f"#{colour}" for colour in _COLOURS.split())


def class_colour(class_id: int) -> str:
    """The colour `#rrggbb` of a class by its id, from 1; colours repeat after the last."""
    return PALETTE[(int(class_id) - 1) % len(PALETTE)]


def text_colour(background: str) -> str:
    """`black` or `white`, whichever is easier to read on a colour `#rrggbb`."""
    red, green, blue = bytes.fromhex(background[1:])
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
