"""The report of a backtest in a real Chromium: in light, in dark, on a phone and in print.

With `SCREENSHOTS` set to a directory, what was seen is kept there.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..replay.test_report import run
from .seen import AXE, PATIENCE_MS, kept_at

if TYPE_CHECKING:
    from playwright.async_api import Browser

LOOKS = {"light": (1200, 900), "dark": (1200, 900), "phone": (390, 844)}
LOADED = "[...document.images].every(i => i.complete && i.naturalWidth > 400)"
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
VIOLATIONS = "async () => (await axe.run()).violations.map(v => `${v.id}: ${v.nodes[0].target}`)"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run(out)
    return out / "report.html"


@pytest.mark.parametrize("look", LOOKS)
async def test_the_report_reads_well(chromium: "Browser", report: Path, look: str) -> None:
    """Nothing is asked for, nothing is complained of, nothing sticks out; pictures are there."""
    width, height = LOOKS[look]
    context = await chromium.new_context(
        color_scheme="dark" if look == "dark" else "light",
        viewport={"width": width, "height": height},
        bypass_csp=True,  # for axe alone: the page itself may run no script
    )
    page = await context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("request", lambda request: told.append(request.url))
    await page.goto(report.as_uri())
    assert [one for one in told if not one.startswith(("data:", "file:"))] == []
    assert await page.evaluate(LOADED)
    assert await page.evaluate(OVERFLOW) <= 0
    await page.add_script_tag(path=AXE)
    assert await page.evaluate(VIOLATIONS) == []
    if place := kept_at(f"report-{look}.png"):
        await page.screenshot(path=place, full_page=True)
    await context.close()


async def test_the_report_prints(chromium: "Browser", report: Path) -> None:
    """A few pages of paper, in the colours of paper whatever the screen is in."""
    page = await chromium.new_page(color_scheme="dark")
    await page.goto(report.as_uri())
    pdf = await page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert 3 <= pdf.count(b"/Type /Page\n") <= 12
    if place := kept_at("report.pdf"):
        place.write_bytes(pdf)
