"""The wheel and the sdist: what is in them, and that they run where nothing else is than what they ask for.

The environments they are installed into see of this one just the packages that the wheel's own metadata names, with
what those need; so an import of anything else is found, and nothing is downloaded.
"""

import importlib.metadata
import re
import signal
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable, Iterator
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import meshbridge
from meshbridge.cli.completion_scripts import Shell, script
from tests.integration.service_manager import Manager, Unit
from tests.support import Process, free_port, write_config

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow  # each installs the wheel, or runs what it installed

Install = Callable[..., Path]


def build(root: Path, target: str, into: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", into],
        cwd=root, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (built,) = into.iterdir()
    return built


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


def required(wheel: Path, *extras: str) -> set[str]:
    """The packages that pip would install for the wheel with these extras, of those that are here."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        wanted = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist") or []
    found: set[str] = set()
    waiting = [(text, extras) for text in wanted]
    done: set[tuple[str, str]] = set()
    while waiting:
        text, asked = waiting.pop()
        requirement = Requirement(text)
        if not any(requirement.marker is None or requirement.marker.evaluate({"extra": one}) for one in asked or ("",)):
            continue
        name = canonicalize_name(requirement.name)
        found.add(name)
        for extra in requirement.extras or {""}:
            if (name, extra) not in done:
                done.add((name, extra))
                below = importlib.metadata.requires(name) or []
                waiting += [(each, (extra,)) for each in below]
                waiting += [(each, ("",)) for each in below] if extra else []
    return found


def link(packages: set[str], into: Path) -> None:
    """Makes ``into`` look like a site-packages that has these packages and no others."""
    into.mkdir()
    for package in packages:
        distribution = importlib.metadata.distribution(package)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            place = into / top
            if not place.exists():
                place.symlink_to(Path(str(distribution.locate_file(top))))


@pytest.fixture(scope="session")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Installs the wheel with extras, each set of them once; gives the environment's folder."""
    made: dict[tuple[str, ...], Path] = {}

    def environment(*extras: str) -> Path:
        if extras not in made:
            home = tmp_path_factory.mktemp("environment")
            venv.create(home, with_pip=False, symlinks=True)
            python = home / "bin" / "python"
            pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install"]
            subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True, capture_output=True, timeout=120)
            link(required(wheel, *extras), home / "required")
            (site,) = home.glob("lib/python*/site-packages")
            (site / "required.pth").write_text(f"{home / 'required'}\n", encoding="utf-8")
            made[extras] = home
        return made[extras]

    return environment


def run(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [home / "bin" / "meshbridge", *arguments]
    return subprocess.run(command, cwd=home, env={}, capture_output=True, text=True, timeout=120, check=False)


# --- what is in them ------------------------------------------------------------------------------------------------


def source_files() -> Iterator[str]:
    for path in (ROOT / "meshbridge").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(ROOT).as_posix()


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("meshbridge/")}
    assert names == set(source_files())
    assert "meshbridge/py.typed" in names


def test_the_wheel_installs_the_manual_page_and_completions(install: Install) -> None:
    share = install() / "share"
    assert (share / "man/man1/meshbridge.1").read_bytes() == (ROOT / "docs/meshbridge.1").read_bytes()
    assert (share / "bash-completion/completions/meshbridge").read_text(encoding="utf-8") == script(Shell.BASH)
    assert (share / "zsh/site-functions/_meshbridge").read_text(encoding="utf-8") == script(Shell.ZSH)
    assert (share / "fish/vendor_completions.d/meshbridge.fish").read_text(encoding="utf-8") == script(Shell.FISH)


def test_the_sdist_makes_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert build(source, "wheel", tmp_path / "wheel").read_bytes() == wheel.read_bytes()


def test_the_sdist_has_what_its_tests_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = ("tests/support.py", "tools/metrics.py", "deploy/helm/meshbridge/Chart.yaml", "Dockerfile", "Makefile")
    assert set(needed) <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("deploy/compose/secrets")]


# --- that they run --------------------------------------------------------------------------------------------------


def test_the_command_and_the_module_are_those_of_the_wheel(install: Install) -> None:
    home = install()
    assert run(home, "version").stdout == f"{meshbridge.__version__}\n"
    where = subprocess.run(
        [home / "bin" / "python", "-c", "import meshbridge.__main__; print(meshbridge.__file__)"],
        cwd=home, env={}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(home)


def test_every_module_can_be_imported_with_what_the_wheel_asks_for(install: Install) -> None:
    """Those of the extras apart: each stands alone."""
    home = install()
    modules = sorted(
        re.sub(r"(/__init__)?\.py$", "", name).replace("/", ".") for name in source_files() if name.endswith(".py")
    )
    trial = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try: importlib.import_module(name)\n"
        "    except ImportError as error: print(name, error.name)\n"
    )
    done = subprocess.run(
        [home / "bin" / "python", "-c", trial, *(name for name in modules if not name.endswith("__main__"))],
        cwd=home, env={}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    missing = {tuple(line.split()) for line in done.stdout.splitlines()}
    of_demo = {"amqtt", "croniter", "python_multipart", "trustme", "websockets", "cryptography"}
    assert {package.partition(".")[0] for _, package in missing} <= of_demo
    assert {name for name, _ in missing if not name.startswith(("meshbridge.emulator", "meshbridge.demo"))} == set()


def test_a_bridge_runs_with_what_the_wheel_asks_for(install: Install, tmp_path: Path) -> None:
    home = install()
    config = write_config(
        tmp_path / "meshbridge.yaml",
        {
            "daemons": {"node-a": {"url": f"tcp://127.0.0.1:{free_port()}", "username": "a", "password": "b"}},
            "sinks": {
                "broker": {"type": "mqtt", "url": f"mqtt://127.0.0.1:{free_port()}"},
                "hook": {"type": "webhook", "url": f"http://127.0.0.1:{free_port()}"},
                "log": {"type": "file", "path": str(tmp_path / "events")},
                "loki": {"type": "loki", "url": f"http://127.0.0.1:{free_port()}"},
            },
            "journal": {"path": str(tmp_path / "journal")},
            "exporter": {"listen": "127.0.0.1:0"},
        },
    )
    checked = run(home, "check", "--offline", "--config", config)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    with Process([str(home / "bin" / "meshbridge"), "run", "--config", str(config)], tmp_path / "log", {}) as bridge:
        bridge.wait_for_output("started")
        assert bridge.end() == 0, bridge.output()
    assert "Traceback" not in bridge.output()


@pytest.mark.parametrize("command", ["demo", "emulate"])
def test_without_the_extra_one_line_says_what_to_install(install: Install, command: str) -> None:
    done = run(install(), command)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"meshbridge: `{command}` needs .+: pip install 'meshbridge\[demo\]'\n", done.stderr)


def test_the_demo_runs_with_its_extra(install: Install, tmp_path: Path) -> None:
    home = install("demo")
    with Process([str(home / "bin" / "meshbridge"), "demo"], tmp_path / "log", {"TERM": "dumb"}) as demo:
        demo.wait_for_output("/talker/stdout")
        assert demo.end(signal.SIGINT) == 0, demo.output()


# --- docs/deployment.md ---------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
BY_PIP = "sudo python3 -m venv /opt/meshbridge && sudo /opt/meshbridge/bin/pip install meshbridge\n"
# What the page says, the unit that runs then, its instance, and the file of it that a person brings along.
STEPS = {
    "one": ("## systemd", "meshbridge.service", "", "meshbridge.yaml"),
    "many": ("### Many on a host", "meshbridge@.service", "blue", "blue.yaml"),
}


def steps(heading: str) -> str:
    """The first commands below a heading."""
    found = re.search(rf"^{heading}$.*?^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("case", STEPS)
def test_the_steps_of_the_guide_lead_to_a_running_service(install: Install, tmp_path: Path, case: str) -> None:
    """All but the download is done, with the folders of the system under one of the test's."""
    heading, file, instance, config = STEPS[case]
    root, home = tmp_path / "root", tmp_path / "home"
    (root / "opt").mkdir(parents=True)
    (root / "opt" / "meshbridge").symlink_to(install())
    (root / "etc" / "systemd" / "system").mkdir(parents=True)
    home.mkdir()
    write_config(
        home / config,
        {
            "daemons": {"node-a": {"url": f"tcp://127.0.0.1:{free_port()}", "username": "bridge"}},
            "exporter": {"listen": "127.0.0.1:0"},
        },
    )
    (home / "appmesh-password").write_text("secret\n", encoding="utf-8")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script_text in {
        "sudo": 'exec "$@"',
        "systemctl": f'[ "$1" = daemon-reload ] || echo "$@" >> {tmp_path}/systemctl',
        "systemd-sysusers": ":",
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{script_text}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    assert steps("## systemd").startswith(BY_PIP)
    lines = steps("## systemd").removeprefix(BY_PIP) if case == "one" else _copying_units() + steps(heading)
    lines = re.sub(r"(?<![\w/])/(etc|opt|usr/local)/", rf"{root}/\1/", lines).replace("--group=meshbridge ", "")
    subprocess.run(
        ["sh", "-eu", "-c", lines],
        cwd=home, env={"PATH": f"{tools}:/usr/bin:/bin"}, check=True, timeout=30,
    )  # fmt: skip
    started = file.replace("@.", f"@{instance}.").removesuffix(".service")
    assert (tmp_path / "systemctl").read_text().split() == ["enable", "--now", started]
    unit = Unit(root / "etc" / "systemd" / "system" / file, root, instance)
    unit.load_credentials(tmp_path / "credentials")
    manager = Manager(tmp_path)
    journal = root / "var" / "lib" / unit.settings("StateDirectory")[0]
    environ = {
        "MESHBRIDGE_JOURNAL__PATH": str(journal),  # the default, which is the system's
        **unit.environment(),
        "NOTIFY_SOCKET": manager.address,
        "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"),
    }
    try:
        with Process(unit.settings("ExecStart")[0].split(), tmp_path / "log", environ) as bridge:
            assert manager.receive() == ["READY=1"], bridge.output()
            assert bridge.end() == 0
    finally:
        manager.close()
    assert (journal / "journal.db").exists()
    secret = root / "etc/meshbridge" / ("credentials" if case == "one" else "blue.credentials")
    assert [file.stat().st_mode & 0o777 for file in secret.iterdir()] == [0o640]


def _copying_units() -> str:
    (line,) = [line for line in steps("## systemd").splitlines() if line.startswith("sudo cp ")]
    return f"sudo mkdir -p /etc/meshbridge\n{line}\n"
