"""One machine with an installed engine for all tests, and the table of what took how long."""

import contextlib
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from quantum_ai_engine.agents.bundle import read_bundle, write_bundle
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.options import TrainOptions

from . import image
from .engine import PROGRAM, Installed
from .machine import Machine

HERE = Path(__file__).parent
START_MS = 1_735_689_600_000  # 2025-01-01
STEPS = pytest.StashKey[list[tuple[str, float]]]()
TIMEOUT_S = 3600  # the first run makes the image

EXTRAS = "embedded,torch"
INSTALL = ("sh", "/shared/own/install.sh", "install", "--wheel")

Boot = Callable[..., Machine]
Step = Callable[[str], contextlib.AbstractContextManager[None]]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STEPS] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def pytest_sessionstart() -> None:
    if why := image.hindrance():
        pytest.exit(f"no machine can be booted here: {why}", returncode=1)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    terminalreporter.section("steps")
    for name, seconds in config.stash[STEPS]:
        terminalreporter.write_line(f"{seconds:8.1f} s  {name}")


@pytest.fixture(scope="session")
def step(pytestconfig: pytest.Config) -> Step:
    """`with step("boot"):` puts a line into the table at the end."""

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        pytestconfig.stash[STEPS].append((name, time.monotonic() - began))

    return timed


@pytest.fixture(scope="session")
def debian(step: Step) -> Path:
    with step("Debian root (cached after the first run)"):
        return image.debian()


@pytest.fixture(scope="session")
def wheelhouse(step: Step) -> Path:
    with step("wheels of all packages (cached after the first run)"):
        return image.wheels()


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory, step: Step) -> Path:
    """What the project itself brings: its wheel, the installer, an agent that blocks, bundles."""
    directory = tmp_path_factory.mktemp("own")
    directory.chmod(0o755)  # for the engine's user
    with step("the project's wheel, and three trained bundles"):
        image.wheel(directory)
        image.built(image.copied(HERE / "blocking", directory / "source"), directory)
        for name in ("install.sh", "install.py", "release.py"):
            (directory / name).write_bytes((image.PROJECT / "deploy" / name).read_bytes())
        bars = PaperMarket(7, 3, start_ms=START_MS).table(1_600)
        options = TrainOptions(epochs=1, samples_per_epoch=512, batch=16)
        for kind, place in (("momentum", "rules"), ("sigor", "rules"), ("gru", "networks")):
            (directory / "bundles" / place).mkdir(parents=True, exist_ok=True)
            train_bundle(kind, bars, directory / "bundles" / place, options, lambda _: None)
        rule = read_bundle(directory / "bundles/rules/momentum")
        blocking = msgspec.structs.replace(rule.manifest, kind="blocking", name="blocking")
        (directory / "bundles/blocking").mkdir()
        files = {name: rule.read(name) for name in blocking.files}
        write_bundle(directory / "bundles/blocking", blocking, files)
    return directory


@pytest.fixture(scope="session")
def boot(
    debian: Path,
    wheelhouse: Path,
    own: Path,
    tmp_path_factory: pytest.TempPathFactory,
    step: Step,
) -> Iterator[Boot]:
    """A new machine each time, all of them ended with the session."""
    with contextlib.ExitStack() as machines:

        def new(*layers: Path) -> Machine:
            machine = Machine(
                [*layers, debian],
                tmp_path_factory.mktemp("machine"),
                {"wheels": wheelhouse, "own": own},
                {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/shared/wheels"},
            )
            machines.callback(machine.close)
            with step("boot of systemd"):
                machine.start()
            machine.run("redis-cli", "CONFIG", "SET", "appendonly", "yes")
            return machine

        yield new


@pytest.fixture(scope="session")
def machine(boot: Boot, own: Path, step: Step) -> Machine:
    """A machine on which the engine, torch and the blocking agent are installed.

    The same wheel is installed by the same installer once: what it wrote is kept as a layer.
    """
    parts = [*own.glob("*.whl"), *own.glob("install*"), own / "release.py"]
    digest = hashlib.sha256(b"".join(part.read_bytes() for part in sorted(parts))).hexdigest()[:8]
    layer = image.cache() / f"installed-{digest}"
    if not layer.exists():
        for older in image.cache().glob("installed-*"):
            shutil.rmtree(older)
        _install(boot(), own, step, layer)
    return boot(layer)


def _install(machine: Machine, own: Path, step: Step, layer: Path) -> None:
    (blocking,) = own.glob("blocking_agents-*.whl")
    machine.write("/etc/quantum-ai-engine/requirements.txt", f"/shared/own/{blocking.name}\n")
    (wheel,) = own.glob("quantum_ai_engine-*.whl")
    with step("install.sh install, with torch (cached after the first run)"):
        machine.run(*INSTALL, f"/shared/own/{wheel.name}", "--extras", EXTRAS)
    Installed(machine).reset()
    with step("the first start after it, until READY"):
        machine.run("systemctl", "start", "quantum-ai-engine")
    machine.run("systemctl", "stop", "quantum-ai-engine")
    machine.run(PROGRAM, "doctor", "--warm")  # for root's own commands, such as `feed`
    machine.freeze(layer)


@pytest.fixture
def engine(machine: Machine) -> Iterator[Installed]:
    """The installed engine, stopped, with rules for agents and an empty Redis."""
    installed = Installed(machine)
    installed.reset()
    yield installed
    print(machine.ask("journalctl", "-n", "60", "-o", "short-monotonic", "--no-pager").stdout)
