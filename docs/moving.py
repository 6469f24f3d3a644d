"""The moving picture of the demo: `make moving`, python docs/moving.py. What is shown is what the command printed."""

import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
OUT = HERE / "demo.gif"
COMMAND = "gradgeo demo"
SIZE, FONT, LINE, MARGIN = (760, 400), 13, 19, 16
PAPER, INK, FAINT = (24, 28, 32), (226, 230, 233), (126, 200, 190)
SECONDS = re.compile(r"\d+ s")
"""The last line, how long it took on the machine that drew."""

FASTEST = 0.25
"""Seconds that a line stands alone at least."""


@dataclass(frozen=True)
class Shown:
    """What stands on the screen, and for how long in seconds."""

    lines: tuple[str, ...]
    seconds: float


class Timed(StringIO):
    """Notes when each line came."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[float, str]] = []
        self._began = time.perf_counter()

    def write(self, text: str) -> int:
        """Keep whole lines."""
        for line in text.splitlines():
            self.lines.append((time.perf_counter() - self._began, line.rstrip()))
        return len(text)


def recorded(folder: Path) -> list[tuple[float, str]]:
    """What the demo prints, with the seconds since its start."""
    from rich.console import Console

    from gradgeo import demo

    stream = Timed()
    with demo._one_thread():
        demo._run(folder, Console(file=stream, width=92))
    return stream.lines


def frames(lines: list[tuple[float, str]]) -> Iterator[Shown]:
    """The command as it is typed, then its lines as they came, long waits shortened."""
    for typed in range(0, len(COMMAND) + 1, 4):
        yield Shown((f"$ {COMMAND[:typed]}_",), 0.12)
    screen, before = [f"$ {COMMAND}"], 0.0
    for at, line in lines:
        yield Shown(tuple(screen), min(2.0, max(at - before, 0.0)) if at - before > FASTEST else 0.06)
        screen, before = [*screen, line], at
    yield Shown(tuple(screen), 5.0)


def drawn(shown: Shown) -> Image.Image:
    """A frame."""
    image = Image.new("RGB", SIZE, PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.truetype(monospaced(), FONT)
    for number, line in enumerate(shown.lines[-((SIZE[1] - 2 * MARGIN) // LINE) :]):
        pen.text((MARGIN, MARGIN + number * LINE), line, font=font, fill=FAINT if line.startswith("$") else INK)
    return image


def monospaced() -> str:
    """The file of matplotlib's monospaced font, which every installation of the extra `plots` has."""
    from matplotlib.font_manager import findfont

    return str(findfont("DejaVu Sans Mono"))


def ending(picture: Path) -> Image.Image:
    """The picture that the demo draws, on a frame of its own."""
    image, drawing = Image.new("RGB", SIZE, (255, 255, 255)), Image.open(picture).convert("RGB")
    drawing.thumbnail((SIZE[0] - 2 * MARGIN, SIZE[1] - 2 * MARGIN))
    image.paste(drawing, ((SIZE[0] - drawing.width) // 2, (SIZE[1] - drawing.height) // 2))
    return image


def draw(out: Path) -> None:
    """Run the demo and write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        said = [(at, line.replace(folder, "demo-output")) for at, line in recorded(Path(folder))]
        lines = [(at, line) for at, line in said if not SECONDS.fullmatch(line)]
        shown = list(frames(lines))
        images = [drawn(each) for each in shown] + [ending(Path(folder) / "csm.png")]
    few = [image.quantize(48, dither=Image.Dither.NONE) for image in images]
    durations = [round(1000 * each.seconds) for each in shown] + [4000]
    few[0].save(out, save_all=True, append_images=few[1:], duration=durations, loop=0, optimize=True)


if __name__ == "__main__":
    draw(OUT)
    sys.stdout.write(f"written to {OUT}, {OUT.stat().st_size:,} bytes\n")
