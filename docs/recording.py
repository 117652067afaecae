"""Twenty seconds of the live view on the demo model, as docs/explore.gif.

`make recording`. Chromium must be installed. A picture is taken when the model has answered, and the
steps of a drag are shown for as long as an answer takes on two cores.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

import tl_truncate as tlt
from tl_truncate.explore.show import exploration

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import live

SIZE = dict(width=1280, height=800)
MOST = 2_000_000  # bytes
COLOURS = 64
STEP = 80  # milliseconds that a step of a drag is shown
PROMPT = ("When Matthew and Elizabeth went to the market, Elizabeth gave a book to", " Matthew", " the")
#: Screenshots have no pointer: this one follows the mouse.
POINTER = """() => {
  const NS = "http://www.w3.org/2000/svg";
  const arrow = document.createElementNS(NS, "svg"), path = document.createElementNS(NS, "path");
  path.setAttribute("d", "M1 1 L1 19 L6 14.5 L9.5 22 L12.5 20.6 L9.2 13.4 L16 13 Z");
  path.setAttribute("fill", "black");
  path.setAttribute("stroke", "white");
  arrow.append(path);
  const looks = {position: "fixed", zIndex: 9, pointerEvents: "none", width: "18px", height: "24px"};
  Object.assign(arrow.style, looks);
  document.body.append(arrow);
  addEventListener("mousemove", ({clientX, clientY}) => {
    arrow.style.left = `${clientX}px`;
    arrow.style.top = `${clientY}px`;
  }, true);
}"""


@dataclass
class Film:
    """Pictures of a page, and for how many milliseconds each is shown."""

    page: Any
    pictures: list[Image.Image] = field(default_factory=list)
    lasts: list[int] = field(default_factory=list)
    hand: tuple[float, float] = (640, 60)

    def take(self, milliseconds: int) -> None:
        """The page as it is."""
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        self.pictures.append(picture)
        self.lasts.append(milliseconds)

    def move(self, across: float, down: float, steps: int = 6) -> None:
        """The pointer goes somewhere."""
        (left, top), self.hand = self.hand, (across, down)
        for step in range(1, steps + 1):
            share = step / steps
            self.page.mouse.move(left + share * (across - left), top + share * (down - top))
            self.take(50)

    def reach(self, what: Any) -> None:
        """The pointer goes to the middle of something."""
        box = what.bounding_box()
        self.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def press(self, what: Any, hold: int) -> None:
        """A click, and what follows of it."""
        self.reach(what)
        what.click()
        live.rest(self.page)
        self.page.wait_for_timeout(300)
        self.take(hold)

    def drag(self, *shares: float, steps: int = 14, hold: int = 1200) -> None:
        """The knob is taken from share to share, a picture at each step."""
        self.move(*live.place(self.page, shares[0]))
        self.page.mouse.down()
        for start, end in pairwise(shares):
            for step in range(1, steps + 1):
                self.hand = live.place(self.page, start + (end - start) * step / steps)
                self.page.mouse.move(*self.hand)
                self.page.wait_for_selector(".tlx[data-busy=no]")
                self.page.wait_for_timeout(40)
                self.take(STEP)
        self.page.mouse.up()
        live.rest(self.page)
        self.page.wait_for_timeout(300)
        self.take(hold)

    def save(self, path: Path) -> int:
        """All pictures in one palette, without dots between its colours, which would not pack."""
        sample = Image.new("RGB", (SIZE["width"], SIZE["height"] * 3))
        for place, number in enumerate((0, len(self.pictures) // 2, -1)):
            sample.paste(self.pictures[number], (0, place * SIZE["height"]))
        palette = sample.quantize(COLOURS, dither=Image.Dither.NONE)
        flat = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in self.pictures]
        flat[0].save(
            path, save_all=True, append_images=flat[1:], duration=self.lasts, loop=0, optimize=False
        )
        return path.stat().st_size


def scenes(film: Film) -> Iterator[str]:
    """What is done, scene by scene."""
    page = film.page
    film.take(2000)
    yield "a drag over the whole spectrum"
    film.drag(0.5, 0.04, 0.5, steps=12, hold=2800)
    yield "another matrix, and its cut added"
    film.press(page.get_by_role("button", name="Add to cuts"), 1500)
    film.press(page.locator("[data-site='blocks.27.mlp.W_out']"), 1500)
    film.drag(0.5, 0.1, steps=12, hold=2800)
    yield "the two in Python"
    film.press(page.get_by_role("button", name="Copy as Python"), 4000)


def main() -> None:
    """Plays the scenes and says how large the file is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("explore.gif"))
    out = parser.parse_args().out
    model = tlt.load_model("demo")
    with (
        live.serving(exploration(model, [PROMPT], loaded=repr("demo"))) as door,
        live.browsing() as browser,
    ):
        context = browser.new_context(
            viewport=SIZE, color_scheme="light", permissions=["clipboard-write"]
        )
        page = context.new_page()
        page.goto(door.address)
        live.rest(page)
        page.locator(".tlx-legend", has_text="predicted change").wait_for(timeout=1_200_000)
        page.evaluate(POINTER)
        film = Film(page)
        for scene in scenes(film):
            print(scene, flush=True)
        size = film.save(out)
    length = sum(film.lasts) / 1000
    print(f"{len(film.pictures)} pictures, {length:.0f} seconds, {size / 1e6:.2f} MB in {out}")
    if size > MOST:
        raise SystemExit(f"It must be no larger than {MOST / 1e6:.0f} MB: fewer steps or colours.")


if __name__ == "__main__":
    main()
