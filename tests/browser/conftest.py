"""A real Chromium for the tests of what people look at; said loudly where there is none."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.async_api import Browser

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium")
try:
    from playwright.async_api import async_playwright
except ImportError:
    HAS_PLAYWRIGHT = False
else:
    HAS_PLAYWRIGHT = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needed = pytest.mark.skipif(
        CHROMIUM is None or not HAS_PLAYWRIGHT,
        reason="NEITHER PAGE NOR REPORT IS TESTED IN A BROWSER: install the package chromium of "
        "the system and the extra `browser` of this project",
    )
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(needed)


@pytest.fixture
async def chromium() -> AsyncIterator["Browser"]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        await browser.close()
