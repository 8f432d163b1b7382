"""The report of a backtest in a real Chromium: in light, in dark, on a phone and in print.

With `QAE_SCREENSHOTS` set to a directory, what was seen is kept there.
"""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..replay.test_report import run

if TYPE_CHECKING:
    from playwright.async_api import Browser

CHROMIUM = shutil.which("chromium")
try:
    from playwright.async_api import async_playwright
except ImportError:
    HAS_PLAYWRIGHT = False
else:
    HAS_PLAYWRIGHT = True

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or not HAS_PLAYWRIGHT,
    reason="THE REPORT IS NOT TESTED IN A BROWSER: install the package chromium of the system "
    "and the extra `browser` of this project",
)

AXE = Path(__file__).parent / "axe.min.js"
LOOKS = {"light": (1200, 900), "dark": (1200, 900), "phone": (390, 844)}
PATIENCE_MS = 30_000
LOADED = "[...document.images].every(i => i.complete && i.naturalWidth > 400)"
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
VIOLATIONS = "async () => (await axe.run()).violations.map(v => `${v.id}: ${v.nodes[0].target}`)"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run(out)
    return out / "report.html"


@pytest.fixture
async def chromium() -> AsyncIterator["Browser"]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        await browser.close()


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
    if directory := os.environ.get("QAE_SCREENSHOTS"):
        await page.screenshot(path=Path(directory) / f"report-{look}.png", full_page=True)
    await context.close()


async def test_the_report_prints(chromium: "Browser", report: Path) -> None:
    """A few pages of paper, in the colours of paper whatever the screen is in."""
    page = await chromium.new_page(color_scheme="dark")
    await page.goto(report.as_uri())
    pdf = await page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert 3 <= pdf.count(b"/Type /Page\n") <= 12
    if directory := os.environ.get("QAE_SCREENSHOTS"):
        (Path(directory) / "report.pdf").write_bytes(pdf)
