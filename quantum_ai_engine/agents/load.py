"""From a directory of bundles to agents that are ready to be warmed up."""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.bundle import Bundle, BundleError, bundle_paths, read_bundle
from quantum_ai_engine.agents.bundled import UnavailableAgent
from quantum_ai_engine.config import Venue

ENTRY_POINTS = "quantum_ai_engine.agents"
_TORCHSCRIPT, _TREES, _RULES = (
    f"quantum_ai_engine.agents.{module}:load" for module in ("torchscript", "trees", "rules")
)
# Kind → who loads it. Libraries are heavy and optional: a loader's module is imported only when a
# bundle asks for it.
LOADERS = {
    **dict.fromkeys(("gru", "transformer", "patchtst", "nhits"), _TORCHSCRIPT),
    **dict.fromkeys(("xgboost", "lightgbm"), _TREES),
    **dict.fromkeys(("sigor", "momentum"), _RULES),
}
_EXTRAS = {"torch": "torch", "xgboost": "trees", "lightgbm": "trees"}


def load_agents(
    directory: Path, order: Sequence[str] = (), venues: Mapping[str, Venue] | None = None
) -> tuple[Agent, ...]:
    """All agents of a directory: first those named in `order`, then the others by name.

    `venues` says where symbols trade; those not named trade 24 hours UTC. Raises `BundleError`
    when one does not verify or was trained with other venues, when a name is missing or given
    twice, when no agent can answer, or when they do not look equally far ahead.
    """
    bundles = [read_bundle(path) for path in bundle_paths(directory)]
    for bundle in bundles:
        check_venues(bundle, venues or {})
    agents = [load_agent(bundle) for bundle in bundles]
    names = [agent.name for agent in agents]
    for name in names:
        if names.count(name) > 1:
            raise BundleError(f"two bundles in {directory} are named {name}")
    if missing := [name for name in order if name not in names]:
        raise BundleError(f"agents.order names {missing[0]}, but {directory} has no such bundle")
    if all(agent.unavailable for agent in agents):
        raise BundleError(f"no agent in {directory} can answer: {agents[0].unavailable}")
    _check_horizons(agents)
    rank = {name: position for position, name in enumerate(order)}
    return tuple(sorted(agents, key=lambda agent: (rank.get(agent.name, len(rank)), agent.name)))


def load_agent(bundle: Bundle) -> Agent:
    """The agent of a verified bundle; one that abstains from all where a library is missing.

    Raises `BundleError` when the payload or the kind is wrong.
    """
    try:
        return _loader(bundle)(bundle)
    except ImportError as error:
        return UnavailableAgent(bundle, _why_not(bundle.manifest.kind, error))


def _why_not(kind: str, error: ImportError) -> str:
    """What to install: a package, or the shared library without which it cannot be imported."""
    name = (error.name or kind).partition(".")[0]
    if name == __name__.partition(".")[0]:
        return f"{kind} does not fit this version of quantum-ai-engine: {error}"
    extra = _EXTRAS.get(name)
    install = f"pip install 'quantum-ai-engine[{extra}]'" if extra else f"install {name}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{name} is not installed: {install}"
    return f"{name} cannot be used here: {error}"


def _loader(bundle: Bundle) -> Callable[[Bundle], Agent]:
    """Who loads this kind: one of ours, else the entry point of that name."""
    kind = bundle.manifest.kind
    others = entry_points(group=ENTRY_POINTS)
    if kind not in {*LOADERS, *others.names}:
        known = ", ".join(sorted({*LOADERS, *others.names}))
        raise BundleError(f"bundle {bundle.path}: unknown kind {kind!r}; there are {known}")
    try:
        found: Callable[[Bundle], Agent] = (
            pkgutil.resolve_name(LOADERS[kind]) if kind in LOADERS else others[kind].load()
        )
    except OSError as error:  # a shared library that its library needs is missing
        raise ImportError(str(error), name=kind) from error
    return found


def check_venues(bundle: Bundle, venues: Mapping[str, Venue]) -> None:
    """Refuse a model that reads sessions when they would not be those of its training."""
    if not bundle.feature_set.reads_sessions:
        return
    manifest, usual = bundle.manifest, Venue()
    for symbol in manifest.spans.symbols:
        then, now = manifest.venues.get(symbol, usual), venues.get(symbol, usual)
        if then != now:
            raise BundleError(
                f"bundle {bundle.path} was trained with {symbol} in sessions of {then.line()}, but "
                f"sessions.venues has it in {now.line()}: its features would differ; set "
                "sessions.venues as it was, or train it again"
            )


def _check_horizons(agents: Sequence[Agent]) -> None:
    first = agents[0]
    for agent in agents[1:]:
        if agent.horizon_bars != first.horizon_bars:
            raise BundleError(
                f"agent {agent.name} looks {agent.horizon_bars} bars ahead, {first.name} "
                f"{first.horizon_bars}: one engine serves one horizon; train one of them again"
            )
