"""From a directory of bundles to agents that are ready to be warmed up."""

from collections.abc import Sequence
from pathlib import Path

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.bundle import Bundle, BundleError, bundle_paths, read_bundle

TORCHSCRIPT_KINDS = ("gru", "patchtst")


def load_agents(directory: Path, order: Sequence[str] = ()) -> tuple[Agent, ...]:
    """All agents of a directory: first those named in `order`, then the others by name.

    Raises `BundleError` when one does not verify, when a name is missing or given twice, or when
    the agents do not look equally far ahead.
    """
    agents = [load_agent(read_bundle(path)) for path in bundle_paths(directory)]
    names = [agent.name for agent in agents]
    for name in names:
        if names.count(name) > 1:
            raise BundleError(f"two bundles in {directory} are named {name}")
    if missing := [name for name in order if name not in names]:
        raise BundleError(f"agents.order names {missing[0]}, but {directory} has no such bundle")
    _check_horizons(agents)
    rank = {name: position for position, name in enumerate(order)}
    return tuple(sorted(agents, key=lambda agent: (rank.get(agent.name, len(rank)), agent.name)))


def load_agent(bundle: Bundle) -> Agent:
    """The agent of a verified bundle. Raises `BundleError`."""
    kind = bundle.manifest.kind
    if kind not in TORCHSCRIPT_KINDS:
        raise BundleError(
            f"bundle {bundle.path}: unknown kind {kind!r}; there are {', '.join(TORCHSCRIPT_KINDS)}"
        )
    try:
        # Torch costs seconds and is optional: it is loaded only when a bundle asks for it.
        from quantum_ai_engine.agents.torchscript import TorchScriptAgent
    except ModuleNotFoundError as error:
        raise BundleError(
            f"bundle {bundle.path} needs torch: pip install 'quantum-ai-engine[torch]'"
        ) from error
    agent = TorchScriptAgent(bundle)
    agent.prove_batches()
    return agent


def _check_horizons(agents: Sequence[Agent]) -> None:
    first = agents[0]
    for agent in agents[1:]:
        if agent.horizon_bars != first.horizon_bars:
            raise BundleError(
                f"agent {agent.name} looks {agent.horizon_bars} bars ahead, {first.name} "
                f"{first.horizon_bars}: one engine serves one horizon; train one of them again"
            )
