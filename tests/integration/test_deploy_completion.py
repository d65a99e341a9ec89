"""Completion, as real shells do it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshbridge.cli.completion_scripts import Shell, script
from tests.integration.terminal import Terminal, terminal
from tests.support import meshbridge_command, program


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A folder with ``meshbridge`` to be found, and with a file to be completed."""
    program_file = tmp_path / "bin" / "meshbridge"
    program_file.parent.mkdir()
    program_file.write_text(
        f"#!{sys.executable}\nimport sys\nsys.argv[0] = 'meshbridge'\nfrom meshbridge.cli import main\nmain()\n"
    )
    program_file.chmod(0o755)
    (tmp_path / "bridge.yaml").touch()
    return {
        "PATH": f"{program_file.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HOME": str(tmp_path),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
    }


KILL_LINE = "\x15"


def complete_as_typed(shell: Terminal) -> None:
    shell.type("meshbridge config sh\t")
    shell.wait_to_see("config show")
    shell.type(f"{KILL_LINE}meshbridge healthcheck --re\t")
    shell.wait_to_see("--ready")
    shell.type(f"{KILL_LINE}meshbridge run --config br\t")
    shell.wait_to_see("bridge.yaml")


def test_bash_completes(environ: dict[str, str], tmp_path: Path) -> None:
    setup = "source <(meshbridge completion bash)"
    with terminal(["bash", "--norc", "-i"], tmp_path, environ, setup) as shell:
        complete_as_typed(shell)


@pytest.mark.needs("zsh")
def test_zsh_completes_from_its_path_at_the_first_tab(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "_meshbridge").write_text(script(Shell.ZSH), encoding="utf-8")
    setup = f"fpath=({tmp_path}/functions $fpath); autoload -U compinit; compinit -u -D"
    with terminal(["zsh", "-f", "-i"], tmp_path, environ, setup) as shell:
        complete_as_typed(shell)


@pytest.mark.slow
@pytest.mark.needs("zsh")
def test_zsh_completes_with_what_was_sourced(environ: dict[str, str], tmp_path: Path) -> None:
    setup = "autoload -U compinit; compinit -u -D; source <(meshbridge completion zsh)"
    with terminal(["zsh", "-f", "-i"], tmp_path, environ, setup) as shell:
        complete_as_typed(shell)


@pytest.mark.slow
@pytest.mark.needs("fish")
def test_fish_completes(environ: dict[str, str], tmp_path: Path) -> None:
    binary = program("fish")
    assert binary is not None

    def asked(line: str) -> list[str]:
        command = f"meshbridge completion fish | source; complete -C {line!r}"
        done = subprocess.run(
            [binary, "--no-config", "-c", command],
            cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return [answer.partition("\t")[0] for answer in done.stdout.splitlines()]

    assert asked("meshbridge config s") == ["schema", "show"]
    assert "--ready" in asked("meshbridge healthcheck --re")
    assert asked("meshbridge run --config br") == ["bridge.yaml"]


def test_an_unknown_shell_is_told_which_there_are() -> None:
    done = subprocess.run(
        meshbridge_command("completion", "tcsh"), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert all(f"'{shell}'" in done.stderr for shell in Shell)
