"""Settings: layers and where each value came from, refusals by name, secrets kept."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine import config
from quantum_ai_engine.config import ConfigError, Settings, Venue, load

SECRET = "hunter2-in-no-message"
ROOMS = ("config", "agents", "daemon", "risk", "features", "supervisor")


@pytest.fixture
def toml(tmp_path: Path) -> Any:
    """Writes a settings file and gives its path."""

    def write(text: str) -> Path:
        path = tmp_path / "engine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def credentials(tmp_path: Path) -> dict[str, str]:
    """The environment of a unit that was given the password of Redis."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / "redis-password").write_text(f"{SECRET}\n", encoding="utf-8")
    return {"CREDENTIALS_DIRECTORY": str(directory)}


def refusal(path: Path | None = None, environ: Any = None, **overrides: Any) -> str:
    """The one sentence with which these settings are refused; `a__b` stands for `a.b`."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    with pytest.raises(ConfigError) as refused:
        load(path, environ=environ or {}, overrides=dotted)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert SECRET not in sentence
    return sentence


def with_values(**overrides: Any) -> Settings:
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return load(None, environ={}, overrides=dotted).settings


def test_nothing_given_is_the_defaults() -> None:
    """Without any layer every setting has its default, and no origin."""
    loaded = load(None, environ={})
    assert loaded.settings == Settings()
    assert loaded.origins == {}


def test_each_layer_overrides_the_one_before(toml: Any) -> None:
    """TOML < environment < command line, key by key; the origin of each is remembered."""
    path = toml('[http]\nport = 1\nhost = "::1"\n[log]\nlevel = "debug"\n[redis]\npartitions = 4\n')
    environ = {"QAE_HTTP__PORT": "2", "QAE_LOG__LEVEL": "error", "HOME": "/nowhere"}
    loaded = load(path, environ=environ, overrides={"http.port": 3})
    settings = loaded.settings
    assert (settings.http.port, settings.http.host) == (3, "::1")
    assert (settings.log.level, settings.redis.partitions) == ("error", 4)
    assert loaded.origins == {
        "http.port": "command line",
        "http.host": str(path),
        "log.level": "environment",
        "redis.partitions": str(path),
    }


def test_credentials_stand_between_file_and_environment(credentials: dict[str, str]) -> None:
    """A credential sets the password, without its newline; the environment may override it."""
    loaded = load(None, environ=credentials)
    assert loaded.settings.redis.password == SECRET
    assert "credential" in loaded.origins["redis.password"]
    loaded = load(None, environ=credentials | {"QAE_REDIS__PASSWORD": "other"})
    assert loaded.settings.redis.password == "other"
    assert loaded.origins["redis.password"] == "environment"


def test_no_credential_is_no_password(tmp_path: Path) -> None:
    """An empty credentials directory, as systemd makes it, sets nothing."""
    loaded = load(None, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert loaded.origins == {}


def test_a_credential_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """It is there, so it is meant: to go on without it would be another password."""
    (tmp_path / "redis-password").mkdir()
    with pytest.raises(ConfigError, match="cannot read the credential redis-password"):
        load(None, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})


@pytest.mark.parametrize(
    ("variable", "text", "read"),
    [
        ("QAE_REDIS__BLOCK_MS", "1500", lambda s: s.redis.block_ms == 1500),
        ("QAE_RISK__EXPOSURE_CAP", "0.25", lambda s: s.risk.exposure_cap == 0.25),
        ("QAE_HTTP__ENABLED", "false", lambda s: s.http.enabled is False),
        ("QAE_AGENTS__ORDER", "gru, patchtst,", lambda s: s.agents.order == ("gru", "patchtst")),
        ("QAE_AGENTS__ORDER", "", lambda s: s.agents.order == ()),
    ],
)
def test_text_becomes_the_type_of_its_key(variable: str, text: str, read: Any) -> None:
    """From the environment come only texts: numbers, truth values and lists are read from them."""
    assert read(load(None, environ={variable: text}).settings)


@pytest.mark.parametrize("key", config.flatten(Settings()))
def test_every_key_has_a_variable(key: str) -> None:
    """The variable of each key sets that key: an unusable text is refused by the key's name."""
    variable = config.environment_name(key)
    layer = config.read_environment({variable: "x"})
    assert layer.values == {key: "x"}


def test_an_unknown_key_is_named_by_its_path(toml: Any) -> None:
    """A misspelt setting is refused with its path and origin, never silently without effect."""
    path = toml("[risk]\nlong_treshold = 0.7\n")
    sentence = refusal(path)
    assert "risk.long_treshold" in sentence
    assert str(path) in sentence
    assert "risk.long_threshold" in sentence, "the nearest key is a hint"
    assert "nonsense.key" in refusal(environ={"QAE_NONSENSE__KEY": "1"})
    assert "risk.gamma" in refusal(risk__gamma=1)


@pytest.mark.parametrize(
    "text",
    ["[engine.live]\nx = 1\n", "[nonsense]\nx = 1\n", "[risk]\nDead_band = 0.1\n"],
    ids=["nested table", "unknown room", "other case"],
)
def test_no_unknown_key_passes(toml: Any, text: str) -> None:
    """Unknown rooms, nested tables and other spellings are refused alike."""
    assert "unknown key" in refusal(toml(text))


def test_a_value_outside_a_table_is_refused(toml: Any) -> None:
    """A key without a section is named, with what to do."""
    sentence = refusal(toml("port = 1\n"))
    assert "port" in sentence
    assert "[section]" in sentence


@pytest.mark.parametrize("name", ["QAE_PORT", "QAE_REDIS_URL"])
def test_a_variable_without_a_section_is_refused(name: str) -> None:
    """A variable of ours that names no section is refused rather than ignored."""
    assert name in refusal(environ={name: "1"})


@pytest.mark.parametrize("text", ["[risk\n", "[risk]\nlong_threshold 0.7\n", "\x00"])
def test_a_broken_file_is_refused_by_its_path(toml: Any, text: str) -> None:
    """What is not TOML is one sentence that names the file."""
    path = toml(text)
    assert str(path) in refusal(path)


def test_a_missing_file_or_other_bytes_are_refused(tmp_path: Path) -> None:
    """No file, a folder and bytes that are no text are refused by their path."""
    other = tmp_path / "latin.toml"
    other.write_bytes(b"[redis]\nurl = '\xff'\n")
    for path in (tmp_path / "none.toml", tmp_path, other):
        assert str(path) in refusal(path)


BAD_VALUES = [
    ("http.port", 70_000),
    ("http.port", "many"),
    ("http.port", 1.5),
    ("http.predict_queue", 63),
    ("http.predict_deadline_ms", 0),
    ("risk.long_threshold", 0.5),
    ("risk.long_threshold", 1.0),
    ("risk.short_threshold", 0.5),
    ("risk.exposure_cap", 0.0),
    ("risk.exposure_cap", 1.01),
    ("risk.dead_band", -0.1),
    ("risk.exit_hysteresis", float("nan")),
    ("engine.clock", "moon"),
    ("engine.valid_intervals", 0.0),
    ("engine.valid_intervals", float("inf")),
    ("redis.bars_retention_hours", float("inf")),
    ("agents.budget_cores", float("inf")),
    ("redis.prefix", "a b"),
    ("redis.prefix", ""),
    ("ingest.batch", 1001),
    ("engine.environment", "live\nother"),
]


@pytest.mark.parametrize(("key", "value"), BAD_VALUES, ids=str)
def test_a_value_outside_its_band_is_refused_by_its_key(key: str, value: Any) -> None:
    """L51: every number has a band, also against what is not finite, and the sentence its key."""
    assert key in refusal(**{key.replace(".", "__"): value})


def test_a_file_is_not_read_leniently(toml: Any) -> None:
    """In TOML a number is a number: a text in its place is refused."""
    assert "http.port" in refusal(toml('[http]\nport = "8001"\n'))


def test_a_secret_in_the_file_is_refused(toml: Any) -> None:
    """A password does not belong into a file that people show: the sentence names its place."""
    sentence = refusal(toml(f'[redis]\npassword = "{SECRET}"\n'))
    assert "redis.password" in sentence
    assert "redis-password" in sentence
    assert "QAE_REDIS__PASSWORD" in sentence


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{SECRET}@host:6379/0",
        f"redis://:{SECRET}@host",
        f"unix://user:{SECRET}@/run/redis.sock",
        f"redis://host:6379/0?password={SECRET}",
        f"unix:///run/redis.sock?password={SECRET}",
    ],
)
def test_a_password_in_the_url_is_refused(url: str) -> None:
    """The address is shown to people and hashed: a password in it is refused, and not repeated."""
    sentence = refusal(redis__url=url)
    assert "redis.url" in sentence
    assert "QAE_REDIS__PASSWORD" in sentence


def test_a_url_that_is_none_is_refused() -> None:
    """An address that cannot be read is a sentence with its key, not a traceback."""
    assert "redis.url" in refusal(redis__url="redis://[::1")


@pytest.mark.parametrize(
    "url", ["", "redis://host:6379/0", "unix:///run/redis.sock", "redis://u@h"]
)
def test_a_url_without_a_password_is_fine(url: str) -> None:
    """An address alone holds no secret."""
    assert with_values(redis__url=url).redis.url == url


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    """The flat view and the hash hold no secret; that one is set shows."""
    settings = with_values(redis__password=SECRET)
    shown = config.flatten(settings)
    assert SECRET not in str(shown)
    assert set(shown["redis.password"]) == {"*"}
    assert config.flatten(Settings())["redis.password"] == ""
    assert config.config_hash(settings) == config.config_hash(with_values(redis__password="x"))


def test_the_token_is_a_secret_like_the_password(toml: Any, tmp_path: Path) -> None:
    """From the credential `http-token` or the environment, not from the file, and masked."""
    (tmp_path / "http-token").write_text(f"{SECRET}\n", encoding="utf-8")
    loaded = load(None, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert loaded.settings.http.token == SECRET
    assert SECRET not in str(config.flatten(loaded.settings))
    assert load(None, environ={"QAE_HTTP__TOKEN": "other"}).settings.http.token == "other"
    assert "http-token" in refusal(toml(f'[http]\ntoken = "{SECRET}"\n'))


def test_a_bad_secret_is_not_repeated() -> None:
    """Even a refusal of the password itself does not print it."""
    assert "redis.password" in refusal(redis__password=[SECRET])


def test_the_hash_moves_with_every_setting() -> None:
    """L45: the configuration's hash in signals tells any two configurations apart."""
    variants = [
        Settings(),
        with_values(risk__exposure_cap=0.6),
        with_values(risk__long_threshold=0.61),
        with_values(engine__environment="paper"),
        with_values(agents__order="gru"),
        with_values(redis__password="x"),
    ]
    assert len({config.config_hash(settings) for settings in variants}) == len(variants)
    assert load(None, environ={}).config_hash == config.config_hash(Settings())


@given(
    st.floats(0.5, 1.0, exclude_min=True, exclude_max=True),
    st.floats(0.0, 0.5, exclude_min=True, exclude_max=True),
    st.floats(0.0, 0.5),
    st.floats(0.0, 0.5, exclude_max=True),
)
def test_thresholds_never_reach_into_the_dead_band(
    long: float, short: float, hysteresis: float, dead_band: float
) -> None:
    """L37: what is accepted leaves a stance before the dead band does; else the key is named."""
    values = {
        "risk.long_threshold": long,
        "risk.short_threshold": short,
        "risk.exit_hysteresis": hysteresis,
        "risk.dead_band": dead_band,
    }
    if long - hysteresis >= 0.5 + dead_band and short + hysteresis <= 0.5 - dead_band:
        assert load(None, environ={}, overrides=values).settings.risk.long_threshold == long
    else:
        with pytest.raises(ConfigError, match=r"risk\.\w+_threshold .* dead band"):
            load(None, environ={}, overrides=values)


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ({"redis__partition": 2, "redis__partitions": 2}, ["redis.partition", "redis.partitions"]),
        ({"redis__partition": "1-4", "redis__partitions": 4}, ["redis.partition", "= 1-4"]),
        ({"redis__partition": "3-2", "redis__partitions": 4}, ["redis.partition", "= 3-2"]),
        ({"redis__cluster": True}, ["redis.cluster", "redis.partitions"]),
        ({"redis__block_ms": 5000}, ["redis.timeout_ms", "redis.block_ms"]),
        ({"risk__dead_band": 0.1}, ["risk.long_threshold", "risk.dead_band"]),
        ({"risk__short_threshold": 0.49}, ["risk.short_threshold", "risk.dead_band"]),
    ],
)
def test_keys_that_contradict_each_other_are_refused(
    values: dict[str, Any], keys: list[str]
) -> None:
    """A contradiction names both keys."""
    sentence = refusal(**values)
    assert all(key in sentence for key in keys)


def test_settings_are_frozen() -> None:
    """Settings are read once: nobody can change them afterwards."""
    with pytest.raises(AttributeError):
        Settings().risk.exposure_cap = 1.0  # type: ignore[misc]


def test_directories_have_their_order(tmp_path: Path) -> None:
    """L43: the setting, else systemd's directory, else the user's; bundles and Redis are in it."""
    unit = {"STATE_DIRECTORY": f"{tmp_path}/unit:{tmp_path}/second", "XDG_STATE_HOME": "/x"}
    assert config.state_dir(Settings(), unit) == tmp_path / "unit"
    assert config.state_dir(Settings(), {"XDG_STATE_HOME": "/x"}) == Path("/x/quantum-ai-engine")
    given_dir = with_values(engine__state_dir=str(tmp_path))
    assert config.state_dir(given_dir, unit) == tmp_path
    assert config.bundle_dir(given_dir, unit) == tmp_path / "bundles"
    assert config.redis_dir(given_dir, unit) == tmp_path / "redis"
    assert config.bundle_dir(with_values(agents__bundles="/b"), unit) == Path("/b")


def test_no_folder_beside_us_is_taken_for_our_package(tmp_path: Path) -> None:
    """L49: started where folders have our rooms' names, the engine still reads its own settings."""
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("raise SystemExit('the wrong folder')\n")
    (tmp_path / "config" / "engine.toml").write_text("[http]\nport = 4321\n")
    read = "from pathlib import Path; from quantum_ai_engine import config; "
    show = "print(config.load(Path('config/engine.toml'), environ={}).settings.http.port)"
    done = subprocess.run(
        [sys.executable, "-c", read + show],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("4321", "")


def test_symbols_are_given_a_venue() -> None:
    """A line names symbols, a zone, an opening and a close; the last line for a symbol counts."""
    lines = ("AAPL|MSFT America/New_York 09:30 16:00", "ES America/Chicago 17:00 16:00")
    venues = with_values(sessions__venues=[*lines, "MSFT UTC 00:00 24:00"]).sessions.by_symbol()
    new_york = Venue("America/New_York", "09:30", "16:00")
    chicago = Venue("America/Chicago", "17:00", "16:00")
    assert venues == {"AAPL": new_york, "MSFT": Venue(), "ES": chicago}
    assert Settings().sessions.by_symbol() == {}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("AAPL America/New_York 09:30", r"write SYMBOL\|… ZONE HH:MM HH:MM"),
        ("AAPL, MSFT America/New_York 09:30 16:00", r"write SYMBOL\|… ZONE HH:MM HH:MM"),
        ("", r"write SYMBOL\|… ZONE HH:MM HH:MM"),
        ("AAPL New_York 09:30 16:00", "there is no time zone 'New_York'"),
        ("AAPL America/New_York 9.30 16:00", "'9.30' is not a time of day: write HH:MM"),
        ("AAPL America/New_York 09:30 25:00", "'25:00' is after 24:00"),
    ],
)
def test_a_venue_that_cannot_be_is_refused_by_its_line(line: str, why: str) -> None:
    """L48: the sentence names the key, the line and what is wrong with it."""
    lines = ["ES America/Chicago 17:00 16:00", line]
    with pytest.raises(ConfigError, match=f"^sessions.venues: .*{why}$") as refused:
        with_values(sessions__venues=lines)
    assert repr(line) in str(refused.value)
    assert "\n" not in str(refused.value)
