"""`qae doctor`: what on this machine would keep the engine from working as promised."""

import asyncio
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.text import Text

from quantum_ai_engine.agents.bundle import BundleError, bundle_paths, read_bundle
from quantum_ai_engine.agents.pool import worker_count
from quantum_ai_engine.agents.trees import require
from quantum_ai_engine.cli.common import CommandError, ConfigOption, SetOption, load_settings, say
from quantum_ai_engine.cli.common import redis_client as client_of
from quantum_ai_engine.config import Settings, bundle_dir
from quantum_ai_engine.daemon import checks
from quantum_ai_engine.daemon.build import build_id, version
from quantum_ai_engine.daemon.client import Unreachable
from quantum_ai_engine.daemon.embedded import EmbeddedRedisError, find_server
from quantum_ai_engine.features import golden

out = Console()


class Finding(NamedTuple):
    """`good`, `warning` or `bad`, and a sentence."""

    grade: str
    text: str


STYLES = {"good": "green", "warning": "yellow", "bad": "red"}


def doctor(
    warm: Annotated[
        bool, typer.Option("--warm", help="Only compile the kernel into its cache and check it.")
    ] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Check this machine; exit 1 when something is bad."""
    settings = load_settings(config, assignments).settings
    findings = [kernel_finding()] if warm else list(examine(settings))
    for finding in findings:
        say(Text.assemble((f"{finding.grade:<8}", STYLES[finding.grade]), finding.text), out)
    if any(finding.grade == "bad" for finding in findings):
        raise typer.Exit(1)


def examine(settings: Settings) -> Iterator[Finding]:
    """All findings, in the order in which the engine would meet them."""
    yield Finding("good", f"quantum-ai-engine {version()}, build {build_id()}")
    yield kernel_finding()
    yield torch_finding(_cuda_version)
    yield from (library_finding(name) for name in ("xgboost", "lightgbm"))
    yield cores_finding(settings.agents.budget_cores, len(os.sched_getaffinity(0)))
    yield from redis_findings(settings)
    yield from bundle_findings(settings)


def kernel_finding() -> Finding:
    """Whether the feature kernel, as compiled here, gives the bits that it gives everywhere."""
    got = golden.digest()
    if got != golden.DIGEST:
        return Finding("bad", f"the feature kernel gives {got}, not {golden.DIGEST}: do not serve")
    return Finding("good", f"the feature kernel gives its golden bits ({got})")


def torch_finding(cuda_version: Callable[[], str | None]) -> Finding:
    """Whether torch is there, and as the build for processors."""
    if importlib.util.find_spec("torch") is None:
        return Finding("warning", "torch is missing: pip install 'quantum-ai-engine[torch]'")
    if cuda := cuda_version():
        return Finding(
            "warning",
            f"torch is the CUDA {cuda} build, gigabytes that serving never uses; README, "
            "'Installing', shows how to get the CPU wheel",
        )
    return Finding("good", "torch is the build for processors")


def library_finding(name: str) -> Finding:
    """Whether a library of boosted trees can be used; without it its agents abstain."""
    try:
        require(name)
    except ImportError as error:
        return Finding(
            "warning",
            f"{name} cannot be used ({error}): pip install 'quantum-ai-engine[trees]'; lightgbm "
            "needs libgomp1 of the system",
        )
    return Finding("good", f"{name} is there")


def cores_finding(budget_cores: float, cores: int) -> Finding:
    """Whether the machine has the cores of the budget."""
    workers = worker_count(budget_cores, cores)
    text = f"{cores} cores, budget {budget_cores}: {workers} agent threads"
    return Finding("good" if cores >= budget_cores else "warning", text)


def redis_findings(settings: Settings) -> Iterator[Finding]:
    """Whether the Redis of the settings answers and is fit, or one of our own could be started."""
    if not settings.redis.url:
        try:
            yield Finding("good", f"redis.url is not set: {find_server()} will be started")
        except EmbeddedRedisError as error:
            yield Finding("bad", str(error))
        return
    try:
        wrong = asyncio.run(_ask_redis(settings))
    except CommandError as error:
        yield Finding("bad", str(error))
        return
    names = {finding.name for finding in wrong}
    right = ", ".join(name for name in checks.CHECKS if name not in names)
    yield Finding("good", f"Redis answers at {settings.redis.url}; right are its {right}")
    for finding in wrong:
        grade = "bad" if checks.refuses(finding, settings.redis.checks) else "warning"
        yield Finding(grade, finding.sentence)


def bundle_findings(settings: Settings) -> Iterator[Finding]:
    """Whether each bundle is whole (`bundle validate` also replays the golden pairs)."""
    try:
        paths = bundle_paths(bundle_dir(settings))
    except BundleError as error:
        yield Finding("warning", str(error))
        return
    for path in paths:
        try:
            yield Finding("good", f"bundle {path} is whole ({read_bundle(path).digest})")
        except BundleError as error:
            yield Finding("bad", str(error))


async def _ask_redis(settings: Settings) -> list[checks.Finding]:
    async with client_of(settings) as client:
        try:
            return await checks.check_server(client, settings.redis, settings.engine.max_series)
        except Unreachable as error:
            raise CommandError(
                f"Redis answers at {settings.redis.url}, but not to what is asked ({error})"
            ) from error


def _cuda_version() -> str | None:
    import torch

    return torch.version.cuda
