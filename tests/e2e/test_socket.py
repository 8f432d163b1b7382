"""The socket unit, and several engines at once."""

import json

from .conftest import Step
from .engine import NAME, PYTHON, SLICE, Installed

CALLERS = """
import collections, http.client, json, pathlib, threading, time
heard = collections.Counter()
def call():
    while not pathlib.Path("/run/enough").exists():
        try:
            asked = http.client.HTTPConnection("127.0.0.1", 8001, timeout=300)
            asked.request("GET", "/health/live")
            heard[str(asked.getresponse().status)] += 1
            asked.close()
        except OSError as error:
            heard[type(error).__name__] += 1
        time.sleep(0.005)
callers = [threading.Thread(target=call) for _ in range(4)]
for caller in callers: caller.start()
for caller in callers: caller.join()
print(json.dumps(heard))
"""


def test_a_restart_refuses_no_request(engine: Installed, step: Step) -> None:
    """With the socket callers wait while the engine restarts; without it they are refused."""
    engine.machine.run("systemctl", "start", f"{NAME}.socket")
    engine.start()
    with step("restart under a loop of requests, with the socket"):
        heard = _asked_during(engine, "restart")
    assert set(heard) == {"200"}
    assert heard["200"] > 20

    engine.machine.run("systemctl", "stop", f"{NAME}.socket", NAME)
    engine.start()
    assert "ConnectionRefusedError" in _asked_during(engine, "restart")


def test_a_first_request_starts_the_engine(engine: Installed) -> None:
    """Who asks a stopped engine waits for it to start."""
    engine.machine.run("systemctl", "start", f"{NAME}.socket")
    assert engine.machine.show("ActiveState")["ActiveState"] == "inactive"
    assert engine.http("/health/live")[0] == 200
    assert engine.events("ready")[-1]["HTTP"] == "http://127.0.0.1:8001"


def test_requests_do_not_restart_bad_settings_for_ever(engine: Installed) -> None:
    """L48: with bad settings the start limit closes the socket as well."""
    engine.configure(more="[http]\nprt = 8001\n")
    engine.drop_in("[Service]\nExecStartPre=\n")  # five starts within StartLimitIntervalSec=
    engine.machine.run("systemctl", "start", f"{NAME}.socket")
    asking = engine.machine.begin(PYTHON, "-c", CALLERS)
    engine.machine.until(
        lambda: engine.machine.show("SubState", unit=f"{NAME}.socket")["SubState"] == "failed",
        "the socket gives up",
    )
    engine.machine.run("touch", "/run/enough")
    engine.machine.finish(asking)
    engine.machine.run("rm", "/run/enough")
    assert engine.machine.show("ExecMainStatus") == {"ExecMainStatus": "78"}
    said = " ".join(str(e["MESSAGE"]) for e in engine.machine.journal(unit=f"{NAME}.socket"))
    assert "start-limit" in said or "trigger" in said.lower()


def test_a_socket_of_another_name_is_refused(engine: Installed) -> None:
    """What else is passed is told in a sentence, and the unit stays down."""
    place = f"/run/systemd/system/{NAME}.socket.d/test.conf"
    engine.machine.write(place, "[Socket]\nFileDescriptorName=metrics\n")
    engine.machine.run("systemctl", "daemon-reload")
    try:
        engine.machine.run("systemctl", "start", f"{NAME}.socket")
        engine.machine.run("systemctl", "start", NAME, status=1)
        assert engine.machine.show("ExecMainStatus") == {"ExecMainStatus": "78"}
        said = [str(entry["MESSAGE"]) for entry in engine.machine.journal()]
        assert any("named metrics" in line for line in said)
    finally:
        engine.machine.run("systemctl", "stop", f"{NAME}.socket", NAME)
        engine.machine.run("rm", place)
        engine.machine.run("systemctl", "daemon-reload")


def test_instances_share_the_slice(engine: Installed, step: Step) -> None:
    """Two engines over partitions 0 and 1: each has its own state, both are in one slice."""
    engine.configure()
    text = engine.machine.run("cat", f"/etc/{NAME}/engine.toml")
    engine.machine.write(
        f"/etc/{NAME}/engine.toml", text.replace("[redis]", "[redis]\npartitions = 2")
    )
    # Each compiles the kernel into a cache of its own, which on a busy machine takes its time.
    place = f"/run/systemd/system/{NAME}@.service.d/test.conf"
    engine.machine.write(place, "[Service]\nTimeoutStartSec=900\n")
    engine.machine.run("systemctl", "daemon-reload")
    with step("two instances, until both are READY"):
        engine.machine.run("systemctl", "start", f"{NAME}@0", f"{NAME}@1")
    engine.feed(3000)
    for partition in (0, 1):
        unit = f"{NAME}@{partition}.service"
        assert engine.machine.show("Slice", unit=unit) == {"Slice": f"{NAME}.slice"}
        assert (
            engine.machine.ask("test", "-d", f"/var/lib/private/{NAME}-{partition}").returncode == 0
        )
        engine.machine.until(
            lambda p=partition: bool(engine.signals(f"quantum:{{{p}}}:signals")),
            f"signals of partition {partition}",
        )
    symbols = [
        {signal["symbol"] for signal in engine.signals(f"quantum:{{{partition}}}:signals")}
        for partition in (0, 1)
    ]
    assert not symbols[0] & symbols[1]
    for partition in (0, 1):
        unit = f"{NAME}@{partition}.service"
        own = engine.machine.run("cat", f"{engine.cpu_root()}/{SLICE}/{unit}/cgroup.procs")
        assert engine.machine.show("MainPID", unit=unit)["MainPID"] in own.split()


def _asked_during(engine: Installed, verb: str) -> dict[str, int]:
    """What a loop of requests heard around a `systemctl restart`."""
    asking = engine.machine.begin(PYTHON, "-c", CALLERS)
    engine.machine.run("sleep", "1")
    engine.machine.run("systemctl", verb, NAME)
    engine.machine.run("sleep", "1")
    engine.machine.run("touch", "/run/enough")
    heard: dict[str, int] = json.loads(engine.machine.finish(asking))
    engine.machine.run("rm", "/run/enough")
    return heard
