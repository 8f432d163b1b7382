"""Pages from templates, escaped by default, and what a browser is allowed to do with them."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from quantum_ai_engine.daemon.page import words
from quantum_ai_engine.daemon.page.facts import now_ms
from quantum_ai_engine.daemon.page.wrong import TESTS

HERE = Path(__file__).parent
STATIC = HERE / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
FILTERS = (
    words.ago, words.agent_state, words.bound, words.clock, words.count, words.iso, words.moment,
    words.number, words.price, words.seconds, words.share, words.signed, words.tone, words.why,
    words.word,
)  # fmt: skip


class Renderer:
    """Renders templates; panels are the parts of a page that are renewed while it is open."""

    def __init__(self, **always: Any) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters |= {one.__name__: one for one in FILTERS}
        self._environment.filters["path"] = path
        self._environment.globals |= {"SHAPES": words.SHAPES, "TESTS": TESTS, **always}
        for name in self._environment.list_templates():  # now: later it would hold the loop up
            self._environment.get_template(name)

    def page(self, name: str, **facts: Any) -> str:
        """A whole page."""
        return self._environment.get_template(f"{name}.html").render(now_ms=now_ms(), **facts)

    def panel(self, name: str, **facts: Any) -> str:
        """One panel."""
        template = self._environment.get_template(f"panels/{name}.html")
        return template.render(now_ms=now_ms(), **facts).strip()


def path(text: str) -> str:
    """A symbol as a part of an address.

    >>> path("BTC/USDT:1 2")
    'BTC%2FUSDT%3A1%202'
    """
    return quote(text, safe="")
