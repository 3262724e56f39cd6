"""The profile on a real Slurm: one node on loopback, started here as root; twelve subjects, one failure of the node."""

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
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
SNAKEMAKE = (
    os.environ.get("SNAKEMAKE")
    or shutil.which("snakemake")
    or shutil.which("snakemake", path=str(Path(sys.executable).parent))
)
pytestmark = [pytest.mark.slow, pytest.mark.slurm]

TEMPLATE = """---
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# A subject

```{code-cell} python
:tags: [parameters]
asl = ""
subject = ""
out = ""
```

```{code-cell} python
from pathlib import Path

folder = Path(out) / subject / "perf"
folder.mkdir(parents=True, exist_ok=True)
(folder / f"{subject}_cbf.nii.gz").write_text(Path(asl).read_text())
```
"""

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
    steps = [p for p in psutil.process_iter(["name"]) if (p.info["name"] or "").startswith("slurmstepd")]
    jobs = [p for step in steps for p in [step, *step.children(recursive=True)]]
    for process in [psutil.Process(node), *jobs]:
        process.kill()
    time.sleep(15)  # Slurm takes a job that began a few seconds ago for one that is still on its way
    subprocess.run(["slurmd"], check=True)


def test_twelve_subjects_through_the_profile_and_a_failure_of_the_node(slurm, tmp_path):
    project = tmp_path / "project"
    for name in ("book", "notebooks"):
        (project / name).mkdir(parents=True)
    (project / "_toc.yml").write_text("format: jb-book\nroot: book/intro\nparts: []\n")
    (project / "notebooks" / "subject.md").write_text(TEMPLATE)
    shutil.copy(ROOT / "notebooks" / "group.md", project / "notebooks")
    for number in range(1, 13):
        folder = tmp_path / "data" / f"sub-{number:02d}" / "perf"
        folder.mkdir(parents=True)
        (folder / f"sub-{number:02d}_asl.nii.gz").write_text(f"brain {number}")
    command = tmp_path / "aslpinn"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m aslpinn.cli "$@"\n')
    command.chmod(0o755)
    (tmp_path / "STUDY.toml").write_text('bids = ["data"]\nchapters = false\n')
    out = tmp_path / "out"
    arguments = [str(SNAKEMAKE), "--snakefile", str(ROOT / "workflow" / "Snakefile"), "--directory", str(project)]
    arguments += ["--profile", str(ROOT / "workflow" / "profiles" / "slurm"), "--set-threads", "subject=1"]
    arguments += ["--set-resources", "subject:mem_mb=0", "group:mem_mb=0", "--until", "group"]
    arguments += ["--slurm-status-command", "squeue", "--seconds-between-status-checks", "5"]  # there is no accounting
    arguments += ["--config", f"study={tmp_path / 'STUDY.toml'}", f"out={out}", f"aslpinn={command}"]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT)
        try:
            limit = time.monotonic() + 300
            while not list(out.glob("subjects/*/report.json")):
                assert run.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < limit
                time.sleep(0.5)
            fail_node(slurm)
            assert run.wait(timeout=500) == 0, (tmp_path / "log").read_text()
        finally:
            run.kill()
    record = json.loads((out / "study.json").read_text())["subjects"]
    assert [state["state"] for state in record.values()] == ["done"] * 12
    maps = out / "derivatives" / "aslpinn"
    texts = [(maps / key / "perf" / f"{key}_cbf.nii.gz").read_text() for key in sorted(record)]
    assert texts == [f"brain {number}" for number in range(1, 13)]
    assert "node failure" in (slurm / "slurmctld.log").read_text(), "a job was running when the node failed"
