"""The profile on a real Slurm: one node on loopback, started here as root; six subjects, one failure of the node."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from templates import SUBJECT, dataset, program

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
SNAKEMAKE = (
    os.environ.get("SNAKEMAKE")
    or shutil.which("snakemake")
    or shutil.which("snakemake", path=str(Path(sys.executable).parent))
)
pytestmark = [pytest.mark.slow, pytest.mark.slurm]

CONFIGURATION = """ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPort={port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES State=UP
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def end(pid_file: Path) -> None:
    if pid_file.is_file():
        os.kill(int(pid_file.read_text()), signal.SIGTERM)


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch) -> Iterator[Path]:
    """A folder with a running Slurm of one node; its daemons end with the test."""
    missing = [name for name in PROGRAMS if not shutil.which(name) and not Path("/usr/sbin", name).exists()]
    if missing:
        pytest.skip(f"{', '.join(missing)} not found: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons are started as root here")
    if SNAKEMAKE is None:
        pytest.skip('snakemake is not installed: pip install "aslpinn[cluster]"')
    folder = Path("/var/tmp") / f"aslpinn-slurm-{os.getpid()}"  # munge wants parents that nobody else can write to
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    # Snakemake's plugin takes SLURM_CONF away from its jobs, so the file has to be where Slurm looks by itself.
    configuration = Path("/etc/slurm/slurm.conf")
    if configuration.exists():
        pytest.skip(f"{configuration} is there: this machine has a Slurm of its own")
    configuration.parent.mkdir(exist_ok=True)
    ports = {"port": free_port(), "node_port": free_port()}
    configuration.write_text(CONFIGURATION.format(host=socket.gethostname(), folder=folder, **ports))
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    names = {"key-file": key, "socket": folder / "munge/socket", "pid-file": folder / "munged.pid"}
    names |= {"log-file": folder / "munged.log", "seed-file": folder / "munge.seed"}
    try:
        subprocess.run(["munged", "--force", *(f"--{name}={path}" for name, path in names.items())], check=True)
        subprocess.run(["slurmctld"], check=True)
        subprocess.run(["slurmd"], check=True)
        yield folder
    finally:
        for name in ("slurmd", "slurmctld", "munged"):
            end(folder / f"{name}.pid")
        configuration.unlink()
        time.sleep(1)
        shutil.rmtree(folder, ignore_errors=True)


def fail_node(folder: Path) -> None:
    """Kill the node's daemon with the job it runs, as a power cut does, and start the daemon again."""
    node = int((folder / "slurmd.pid").read_text())
    psutil = pytest.importorskip("psutil")
    psutil.Process(node).kill()
    for step in psutil.process_iter(["name"]):
        if (step.info["name"] or "").startswith("slurmstepd"):
            with suppress(psutil.NoSuchProcess):
                for process in [*step.children(recursive=True), step]:
                    with suppress(psutil.NoSuchProcess):  # it ended by itself just now
                        process.kill()
    time.sleep(15)  # Slurm takes a job that began a few seconds ago for one that is still on its way
    subprocess.run(["slurmd"], check=True)


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    """A study of six small subjects in tmp_path/out, as a command of Snakemake with the profile for Slurm."""
    project = tmp_path / "project"
    for name in ("book", "notebooks"):
        (project / name).mkdir(parents=True)
    (project / "_toc.yml").write_text("format: jb-book\nroot: book/intro\nparts: []\n")
    (project / "notebooks" / "subject.md").write_text(SUBJECT)
    shutil.copy(ROOT / "notebooks" / "group.md", project / "notebooks")
    dataset(tmp_path / "data", **{f"{number:02d}": f"brain {number}" for number in range(1, 7)})
    (tmp_path / "STUDY.toml").write_text('bids = ["data"]\nchapters = false\n')
    workflow = ROOT / "workflow"
    command = ["--snakefile", str(workflow / "Snakefile"), "--directory", str(project), "--until", "group"]
    command += ["--profile", str(workflow / "profiles" / "slurm"), "--set-threads", "subject=1"]
    command += ["--set-resources", "subject:mem_mb=0", "group:mem_mb=0"]
    command += ["--slurm-status-command", "squeue"]  # there is no accounting
    command += ["--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2"]
    settings = [f"study={tmp_path / 'STUDY.toml'}", f"out={tmp_path / 'out'}", f"aslpinn={program(tmp_path)}"]
    return [str(SNAKEMAKE), *command, "--config", *settings]


def test_six_subjects_through_the_profile_and_a_failure_of_the_node(slurm, arguments, tmp_path):
    out, told = tmp_path / "out", tmp_path / "log"
    with told.open("w") as log:
        run = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT)
        try:
            limit = time.monotonic() + 300
            while not list(out.glob("subjects/*/report.json")):
                assert run.poll() is None, told.read_text()
                assert time.monotonic() < limit, told.read_text()
                time.sleep(0.5)
            fail_node(slurm)
            assert run.wait(timeout=500) == 0, told.read_text()
        finally:
            run.kill()
    record = json.loads((out / "study.json").read_text())["subjects"]
    assert [state["state"] for state in record.values()] == ["done"] * 6
    maps = out / "derivatives" / "aslpinn"
    texts = [(maps / key / "perf" / f"{key}_cbf.nii.gz").read_text() for key in sorted(record)]
    assert texts == [f"brain {number}" for number in range(1, 7)]
    assert "node failure" in (slurm / "slurmctld.log").read_text(), "a job was running when the node failed"
