"""`qae replay`: the live engine on recorded bars, to its files."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from quantum_ai_engine.cli import app as commands
from quantum_ai_engine.cli.app import build
from quantum_ai_engine.config import Settings, load
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.producer import MAX_SPEED, Producer, produce_all, steps
from quantum_ai_engine.events import Signal
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.proof.twin import run_twin
from quantum_ai_engine.replay.drive import KEPT, SIGNALS
from quantum_ai_engine.replay.signals import COLUMNS, signals_in

from ..market.test_stream import written

BEGUN = "from quantum_ai_engine.__main__ import main; main()"
SMALL = (
    "from quantum_ai_engine.replay import run; run.SETTLED_ROWS = 300; run.BATCH_BARS = 60; "
    + BEGUN
)


FILES = ["equity.parquet", "fills.parquet", "report.html", "report.json", SIGNALS]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(build("replay"), ["replay", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def signals_of(out: Path) -> list[Signal]:
    return list(signals_in(out / SIGNALS))


def test_the_signals_are_written_in_columns_and_as_on_the_wire(
    history: BarTable, bundles: Path, tmp_path: Path
) -> None:
    """L53: each row is one signal, and the columns say what its wire form says."""
    data, out = written(tmp_path, ".csv.gz", history), tmp_path / "out"
    said = run("--data", data, "--bundles", bundles, "--out", out)
    table = parquet.read_table(out / SIGNALS)
    assert table.column_names == list(COLUMNS)
    rows = table.to_pylist()
    assert len(rows) > 2_500
    for row in rows[:: len(rows) // 50]:
        wire = json.loads(row["json"])
        assert row["risk_state"] == wire["risk"]["state"]
        assert row["policy_mode"] == wire["policy"]["mode"]
        for name in ("id", "symbol", "interval", "close_time", "probability", "stance", "target"):
            assert row[name] == wire[name]
    assert f"{len(rows)} signals (" in said
    assert f"{len(history)} bars after 0 of warm-up" in said
    assert re.search(r"\d+ bars without a signal \(burn_in 7\d\d", said)
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert "after costs, Sharpe ratio" in said
    assert "red flag: gru was trained on bars up to" in said
    report = json.loads((out / "report.json").read_bytes())
    assert report["passage"]["signals"] == len(rows)
    assert [one["name"] for one in report["audit"]["sources"]] == ["gru", "patchtst", "ensemble"]
    assert report["audit"]["settled"] + sum(report["audit"]["void"].values()) + report["audit"][
        "pending"
    ] == len(rows)


def test_the_same_file_gives_the_same_bytes(
    history: BarTable, bundles: Path, tmp_path: Path
) -> None:
    """L43: a replay depends on bars, bundles and settings alone."""
    data = written(tmp_path, ".parquet", history)
    chosen = ("--symbols", ",".join(history.symbols[:2]), "--blocks", 1, "--block-size", 200)
    for name in ("one", "two"):
        run("--data", data, "--bundles", bundles, "--out", tmp_path / name, *chosen)
    one, two = ((tmp_path / name / SIGNALS).read_bytes() for name in ("one", "two"))
    assert one == two
    assert len(signals_of(tmp_path / "one")) == 400


def replay_process(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", code, "replay", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_killed_replay_goes_on_and_writes_the_same_bytes(
    history: BarTable, bundles: Path, tmp_path: Path
) -> None:
    """L43: killed at any moment, and given again: what comes is what one run would have written."""
    data = written(tmp_path, ".csv", history.rows(0, 2_400))
    given = ("--data", data, "--bundles", bundles, "--out")
    whole = replay_process(SMALL, *given, tmp_path / "whole")
    assert whole.wait(200) == 0, whole.communicate()
    out = tmp_path / "out"
    kills = 0
    for parts in (1, 3, 6):
        process = replay_process(SMALL, *given, out)
        while process.poll() is None:
            if (out / KEPT / f"signals-{parts:05}.parquet").exists():
                process.kill()
                kills += 1
                break
            time.sleep(0.01)
        process.communicate()
    assert kills == 3
    assert not (out / SIGNALS).exists()
    last = replay_process(SMALL, *given, out)
    said, error = last.communicate(timeout=200)
    assert last.returncode == 0, error
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert (
        said.splitlines()[1].split(b" in ")[0]
        == whole.communicate()[0].splitlines()[1].split(b" in ")[0]
    )
    assert sorted(path.name for path in out.iterdir()) == FILES


def test_what_was_interrupted_with_other_bars_is_begun_anew(
    history: BarTable, bundles: Path, tmp_path: Path
) -> None:
    """L25: nothing of another replay is mixed in."""
    data, out = written(tmp_path, ".csv", history.rows(0, 1_500)), tmp_path / "out"
    process = replay_process(SMALL, "--data", data, "--bundles", bundles, "--out", out)
    while not (out / KEPT / "state.msgpack").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    data.write_text(data.read_text().replace(history.symbols[0], "OTHER"))
    run("--data", data, "--bundles", bundles, "--out", out)
    run("--data", data, "--bundles", bundles, "--out", tmp_path / "fresh")
    assert (out / SIGNALS).read_bytes() == (tmp_path / "fresh" / SIGNALS).read_bytes()


async def test_a_stream_gives_what_the_twin_makes_of_it(
    history: BarTable, settings: Settings, client: Client, bundles: Path, tmp_path: Path
) -> None:
    """L53: what a live engine read from Redis, replayed, has the bytes that a twin publishes."""
    import asyncio

    table = history.rows(0, 1_800)
    producer = Producer(client, Keys.of(settings.redis), "test", None)
    await produce_all(
        producer,
        lambda at: steps(table, 60_000, at, together=True),
        MAX_SPEED,
        lambda _: None,
    )
    overrides = {
        "engine.clock": "bars",
        "engine.burn_in_bars": 0,
        "engine.state_dir": str(tmp_path),
        "redis.url": settings.redis.url,
        "agents.bundles": str(bundles),
        "http.port": 0,
    }
    given = [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
    out = tmp_path / "out"
    await asyncio.to_thread(run, "--data", "stream", "--out", out, *given)
    loaded = load(None, overrides={key: str(value) for key, value in overrides.items()})
    twin = await run_twin(loaded, client, [])
    assert twin.bars == 1_800
    assert [msgspec.json.encode(one) for one in signals_of(out)] == twin.signals
    assert len(twin.signals) > 1_000


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--data", "{}/none.csv"), 1, "there is no file .*none.csv"),
        (("--from", "soon"), 2, "--from soon: write a day as 2025-01-31"),
        (("--from", "2025-01-02", "--blocks", "2"), 2, "--blocks and --from both say"),
        (("--from", "2025-01-03", "--to", "2025-01-02"), 2, "--to 2025-01-02 is not after"),
        (("--from", "2030-01-01"), 1, "has no bars from --from to --to; it has bars from 2025"),
        (("--symbols", "NONE"), 1, "has no bars of NONE"),
        (
            ("--blocks", "1", "--block-size", "5000"),
            1,
            "too few for a block after a warm-up of 256",
        ),
        (("--set", "engine.burn=1"), 78, "unknown key engine.burn"),
        (("--bundles", "{}/none"), 1, "none"),
        (("--data", "stream", "--set", "redis.partitions=2"), 2, "name it with --set redis.part"),
    ],
)
def test_wrong_use_is_one_sentence_and_leaves_nothing(
    arguments: tuple[str, ...],
    code: int,
    sentence: str,
    history: BarTable,
    bundles: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """L41: nothing is half written."""
    data, out = written(tmp_path, ".parquet", history.rows(0, 3_000)), tmp_path / "out"
    given = [argument.format(tmp_path) for argument in arguments]
    usual = ["--data", str(data), "--bundles", str(bundles), "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["qae", "replay", *usual, *given])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("quantum-ai-engine: ")
    assert re.search(sentence, error), error
    assert not out.exists() or not list(out.iterdir())
