"""The files for schedulers in docs/cluster can be parsed, name real flags, and requeue a job that was interrupted."""

import importlib
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from world_models.runtime import cli

FOLDER = Path(__file__).parents[2] / "docs/cluster"
SCRIPTS = sorted([*FOLDER.glob("*.sbatch"), *FOLDER.glob("*.sh")])
JOBS = sorted(FOLDER.glob("*.sbatch"))
KUBERNETES = FOLDER / "collect_ray_job.yaml"
SCHEMAS = {"collect": "CollectConfig", "convert": "ConvertConfig", "train_vae": "TrainConfig"}


def named(path: Path) -> str:
    return path.name


def commands(path: Path) -> list[tuple[str, list[str]]]:
    """The commands of this package in a file, with example values for the shell's variables."""
    text = re.sub(r"\\\n\s*", "", path.read_text())
    text = re.sub(r"\$\(\((.*?)\)\)|\$\w+|\$\{.*?\}", "1", text).replace('"$@"', "").replace(" &\n", "\n")
    found = re.findall(r"-m world_models\.(\w+)([^\n]*)", text)
    return [(name, shlex.split(flags)) for name, flags in found]


def test_there_is_a_file_for_each_scheduler():
    assert len(JOBS) == 3 and KUBERNETES.exists() and (FOLDER / "train_hosts.sh").exists()


@pytest.mark.parametrize("script", SCRIPTS, ids=named)
def test_every_script_can_be_parsed(script: Path):
    parsed = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (parsed.returncode, parsed.stderr) == (0, "")
    assert "set -euo pipefail" in script.read_text()


@pytest.mark.parametrize("path", [*SCRIPTS, KUBERNETES], ids=named)
def test_every_command_in_the_files_can_be_parsed(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(FOLDER.parents[1])
    assert commands(path)
    for name, argv in commands(path):
        schema = getattr(importlib.import_module(f"world_models.{name}.command"), SCHEMAS[name])
        assert isinstance(cli.parse(schema, argv, prog="test"), schema)


@pytest.mark.parametrize("job", JOBS, ids=named)
def test_every_job_is_warned_before_its_end_and_may_be_requeued(job: Path):
    flags = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", job.read_text(), re.M))
    assert re.fullmatch(r"B:USR1@\d+", flags["signal"]) and "requeue" in flags
    assert {"job-name", "nodes", "cpus-per-task", "time", "open-mode"} <= set(flags)


def test_the_kubernetes_job_has_the_fields_that_kuberay_needs():
    job: Any = yaml.safe_load(KUBERNETES.read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob") and job["metadata"]["name"]
    spec = job["spec"]
    assert "--executor ray" in spec["entrypoint"] and spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"]
    cluster = spec["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"  # the driver's pod only writes
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"] and workers["groupName"]
    (driver,), (worker,) = (group["template"]["spec"]["containers"] for group in (head, workers))
    assert driver["image"] == worker["image"]
    assert {"requests", "limits"} <= set(driver["resources"]) & set(worker["resources"])
    (mounted,) = driver["volumeMounts"]
    assert mounted["mountPath"] == "/data" and "--out /data/" in spec["entrypoint"]
    assert mounted["name"] in [volume["name"] for volume in head["template"]["spec"]["volumes"]]
    assert "volumeMounts" not in worker


# --- a dry run, with programs that stand for SLURM's

STUBS = {
    "srun": 'case "$*" in *--overlap*|*mkdir*|*cp*|*hostname*) echo 10.0.0.1;; *) exec "$WORK";; esac',
    "scancel": 'kill "-${1#--signal=}" "$(cat work.pid)"',
    "scontrol": 'if [ "$1" = show ]; then printf "node1\\nnode2\\n"; else echo "$*" >> requeued; fi',
    "ray": "exit 0",
    "sleep": "exit 0",
    "python": 'exec "$WORK"',
    "work": """
import os, signal, sys, time
def end(number, frame):
    sys.exit(128 + number)
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, end)
open("work.pid", "w").write(str(os.getpid()))
time.sleep(float(os.environ["SECONDS_OF_WORK"]))
""",
}
VARIABLES = {
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_NNODES": "2",
    "SLURM_CPUS_PER_TASK": "4",
}


def submit(job: Path, folder: Path, seconds: str) -> subprocess.Popen[bytes]:
    """Run a job's script as SLURM does, with the stubs for all programs."""
    programs = folder / "programs"
    programs.mkdir()
    for name, body in STUBS.items():
        first_line = "#!/usr/bin/env python3" if name == "work" else "#!/bin/bash"
        (programs / name).write_text(f"{first_line}\n{body}\n")
        (programs / name).chmod(0o755)
    path = {"PATH": f"{programs}:/usr/bin:/bin", "WORK": str(programs / "work"), "SECONDS_OF_WORK": seconds}
    return subprocess.Popen(["bash", job], cwd=folder, env={**VARIABLES, **path})


@pytest.mark.parametrize("job", JOBS, ids=named)
def test_an_interrupted_job_is_requeued(job: Path, tmp_path: Path):
    running = submit(job, tmp_path, "60")
    while not (tmp_path / "work.pid").exists() or not (tmp_path / "work.pid").read_text():
        assert running.poll() is None
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGUSR1)
    assert running.wait(60) != 0
    assert (tmp_path / "requeued").read_text() == "requeue 77\n"


@pytest.mark.parametrize("job", JOBS, ids=named)
def test_a_finished_job_is_not_requeued(job: Path, tmp_path: Path):
    assert submit(job, tmp_path, "0.01").wait(60) == 0
    assert not (tmp_path / "requeued").exists()
