"""The finished trials of a sweep, kept beside its result until that is written."""

import contextlib
import hashlib
import shutil
from pathlib import Path

import msgspec

from quantum_ai_engine.agents.bundle import BundleError, bundle_paths, read_bundle
from quantum_ai_engine.config import bundle_dir
from quantum_ai_engine.replay.drive import fingerprint
from quantum_ai_engine.replay.sweep import Sweep, SweepError
from quantum_ai_engine.replay.trial import Outcome
from quantum_ai_engine.report.files import write_whole

FINISHED_VERSION = 1
_ASKED, _TRIAL = "asked", "trial-*.msgpack"


class Finished:
    """The directory of a sweep: what was asked, each trial that came to an end, and trained agents.

    `outcomes` are those of trials by their number. One that failed is not among them: it is tried
    again by who goes on.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.outcomes: dict[int, Outcome] = {}

    def begin(self, asked: str) -> None:
        """Find what a sweep of the same question left; else have an empty directory.

        Raises `SweepError` if the trials are those of another question, and `OSError`.
        """
        trials = sorted(self._directory.glob(_TRIAL))
        if trials and self._asked() != asked:
            raise SweepError(
                f"{self._directory} has {len(trials)} finished trials of another sweep: give the "
                "specification, bars, settings, bundles and build of that one to go on with it, "
                "remove the directory to begin anew, or name another --out"
            )
        if self._asked() != asked:
            self.remove()
            self._directory.mkdir(parents=True)
            write_whole(self._directory / _ASKED, asked.encode())
        for path in trials:
            with contextlib.suppress(msgspec.DecodeError):  # a torn one is made again
                outcome = msgspec.msgpack.decode(path.read_bytes(), type=Outcome)
                self.outcomes[int(path.stem.removeprefix("trial-"))] = outcome

    def add(self, number: int, outcome: Outcome) -> None:
        """Keep a trial that came to an end."""
        path = self._directory / f"trial-{number:06d}.msgpack"
        write_whole(path, msgspec.msgpack.encode(outcome))
        self.outcomes[number] = outcome

    def leave(self) -> None:
        """Stay only if there is something to go on with."""
        if [path.name for path in self._directory.iterdir()] == [_ASKED]:
            self.remove()

    def remove(self) -> None:
        """Forget everything."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _asked(self) -> str | None:
        try:
            return (self._directory / _ASKED).read_text(encoding="utf-8")
        except OSError:
            return None


def asked(sweep: Sweep) -> str:
    """A fingerprint of all that the table of a sweep hangs on."""
    spec = msgspec.structs.replace(sweep.spec, retries=0)  # a result is the same at any attempt
    with sweep.data.open("rb") as file:
        data = hashlib.file_digest(file, "sha256").hexdigest()
    base = sweep.load({})
    directories = [Path(one) for one in spec.bundles] or [bundle_dir(base.settings)]
    is_trained = spec.walk_forward is not None and spec.walk_forward.kinds
    bundles = [] if is_trained else [_bundles_in(one) for one in directories]
    facts = (msgspec.json.encode(spec), data, sweep.data.name, sweep.interval, bundles)
    return fingerprint(FINISHED_VERSION, *facts, base.config_hash, sweep.engine_name)


def _bundles_in(directory: Path) -> list[str]:
    """The digests of a directory's bundles; of what cannot be read, why."""
    try:
        return [read_bundle(path).digest for path in bundle_paths(directory)]
    except BundleError as error:
        return [str(error)]
