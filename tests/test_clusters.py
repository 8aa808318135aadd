"""Files for clusters: a real Slurm runs its script, schemas check the others.

Slurm's daemons are the test's own: `apt-get install slurm-wlm munge`. The schemas
are those of `pip install skypilot kubeflow-trainer-api`.
"""

import contextlib
import copy
import dataclasses
import getpass
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest
import yaml

from tests import conftest
from tests import test_meshes
from tests import test_processes
from tests import test_sft
from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

CLUSTERS = conftest.ROOT / "clusters"
DAEMONS = ("munged", "slurmctld", "slurmd")
# Debian has daemons where only the administrator's PATH leads.
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
MISSING = [name for name in DAEMONS if shutil.which(name, path=PATH) is None]
SECONDS = 300
SLURM_CONF = """\
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
# A job that is queued again waits until its credential has expired.
AuthInfo=socket={root}/munge.socket,cred_expire=5
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerParameters=sched_interval=1
KillWait=10
NodeName=localhost CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES OverSubscribe=FORCE
"""


class Slurm:
  """A cluster of one node."""

  def __init__(self, root: pathlib.Path):
    self.root = root
    self.env = os.environ | {
      "PATH": PATH,
      "SLURM_CONF": str(root / "slurm.conf"),
    }

  def run(self, *command: str | pathlib.Path, **settings: str) -> str:
    """Runs a command of Slurm; returns its output."""
    done = subprocess.run(
      [*map(str, command)],
      cwd=conftest.ROOT,
      env=self.env | settings,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

  def is_active(self, job: str) -> bool:
    """Returns whether a job is queued or has processes."""
    return bool(self.run("squeue", "--noheader", f"--jobs={job}"))

  def submit(self, config: pathlib.Path, run: pathlib.Path) -> str:
    """Submits the script of `clusters/` as two tasks; returns the job's number."""
    return self.run(
      "sbatch",
      "--parsable",
      "--nodes=1",
      "--ntasks-per-node=2",
      "--cpus-per-task=1",
      "--gres=none",
      f"--output={self.root}/job-%j.log",
      CLUSTERS / "slurm.sbatch",
      SCRIPT="training/train_sft_tunix.py",
      CONFIG=str(config),
      RUN=str(run),
      PYTHON=sys.executable,
      XLA_FLAGS=conftest.xla_flags(1),
    )

  def log(self, job: str) -> str:
    """Returns what a job printed."""
    return (self.root / f"job-{job}.log").read_text()

  def process(self, job: str, task: int) -> int:
    """Returns the process id of a running job's task."""
    _, *rows = self.run("scontrol", "listpids", f"{job}.0").splitlines()
    (pid,) = (row.split()[0] for row in rows if row.split()[-1] == str(task))
    return int(pid)

  def state(self, job: str) -> str:
    """Returns the state of a job and how often it was queued again."""
    details = self.run("scontrol", "show", "job", "--oneliner", job)
    fields = [each.partition("=") for each in details.split()]
    values = {name: value for name, _, value in fields}
    return f"{values['JobState']} {values['Restarts']}"


def wait_until(condition, what):
  deadline = time.monotonic() + SECONDS
  while not condition():
    assert time.monotonic() < deadline, what
    time.sleep(0.1)


def free_ports(count):
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
    for each in sockets:
      each.bind(("localhost", 0))
    return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def slurm():
  """A cluster of this machine, stopped at the end with all of its jobs."""
  # A short path: sockets have no long names.
  root = pathlib.Path(tempfile.mkdtemp(prefix="slurm"))
  for name in ("state", "spool"):
    (root / name).mkdir()
  (root / "key").write_bytes(secrets.token_bytes(128))
  (root / "key").chmod(0o400)
  (root / "slurm.conf").write_text(
    SLURM_CONF.format(
      root=root,
      ports=free_ports(2),
      user=getpass.getuser(),
      cpus=os.cpu_count(),
    )
  )
  cluster, daemons = Slurm(root), []
  munge = [
    f"--key-file={root}/key",
    f"--socket={root}/munge.socket",
    f"--pid-file={root}/munge.pid",
    f"--log-file={root}/munge.log",
    f"--seed-file={root}/munge.seed",
  ]
  try:
    for command in (
      # The directory is another's than munge expects.
      ["munged", "--foreground", "--force", *munge],
      ["slurmctld", "-D"],
      ["slurmd", "-D", "-N", "localhost"],
    ):
      with (root / f"{command[0]}.out").open("w") as out:
        daemons.append(
          subprocess.Popen(command, env=cluster.env, stdout=out, stderr=out)
        )
      if command[0] == "munged":
        wait_until((root / "munge.socket").exists, "munged")
    wait_until(
      lambda: "idle" in cluster.run("sinfo", "--noheader", "--format=%T"),
      "no node is idle",
    )
    yield cluster
  finally:
    with contextlib.suppress(AssertionError):
      cluster.run("scancel", f"--user={getpass.getuser()}")
      wait_until(lambda: not cluster.run("squeue", "--noheader"), "jobs")
    for daemon in reversed(daemons):
      daemon.terminate()
      daemon.wait(timeout=60)
    shutil.rmtree(root)


def recorded(run, step):
  path = run / run_directory.METRICS
  text = path.read_text() if path.exists() else ""
  return f'"step": {step}, "split": "train"' in text


needs_slurm = pytest.mark.skipif(
  bool(MISSING), reason=f"not installed: {', '.join(MISSING)} of Slurm"
)
CONFIG = dataclasses.replace(
  test_sft.CONFIG,
  training=dataclasses.replace(
    test_sft.CONFIG.training, max_steps=30, eval_every_n_steps=10
  ),
  checkpoint=config_lib.CheckpointConfig(save_interval_steps=5),
  logging=config_lib.LoggingConfig(report=False),
)


@pytest.fixture
def path(tmp_path):
  """A file of the settings."""
  file = tmp_path / "config.yaml"
  file.write_text(yaml.safe_dump(config_lib.to_dict(CONFIG)))
  return file


@pytest.mark.slow
@needs_slurm
def test_a_job_that_is_queued_again_goes_on(slurm, path, tmp_path):
  run, whole = tmp_path / "run", tmp_path / "whole"
  recipes.train_sft(dataclasses.replace(CONFIG, mesh=test_meshes.FSDP), whole)
  job = slurm.submit(path, run)
  wait_until(lambda: recorded(run, 7), "step 7")
  os.kill(slurm.process(job, 1), signal.SIGKILL)
  wait_until(lambda: slurm.state(job).endswith(" 1"), "queued again")
  wait_until(lambda: recorded(run, 17), "step 17")
  # As before the time limit.
  slurm.run("scancel", "--signal=TERM", f"{job}.0")
  wait_until(lambda: slurm.state(job).endswith(" 2"), "queued again")
  wait_until(lambda: not slurm.is_active(job), "the end")
  assert slurm.state(job) == "COMPLETED 2", slurm.log(job)
  test_meshes.rows_alike(test_sft.rows(run), test_sft.rows(whole))
  test_meshes.assert_alike(run, whole)
  manifest = run_manifest.RunManifest.read(run)
  assert manifest.devices == ["cpu", "cpu"]
  first, second, third = (each.from_step for each in manifest.sessions)
  # Killed after step 7; stopped after a step from 17 on, which was saved.
  assert first == 0 and second == 5 and third >= 17


@pytest.mark.slow
@needs_slurm
def test_a_mistake_is_not_queued_again(slurm, path, tmp_path):
  path.write_text("training: {max_steps: -1}")
  job = slurm.submit(path, tmp_path / "run")
  wait_until(lambda: not slurm.is_active(job), "the end")
  assert slurm.state(job) == "FAILED 0"
  assert "training.max_steps" in slurm.log(job)


@pytest.mark.slow
@needs_slurm
def test_a_mistake_of_the_first_task_is_not_queued_again(slurm, path):
  # Only the first task tries to write. The other one still reads its data when
  # the first one ends, and JAX aborts it.
  path.write_text("data: {games: {num_games: 100000}}")
  job = slurm.submit(path, path / "run")
  wait_until(lambda: not slurm.is_active(job), "the end")
  assert slurm.state(job) == "FAILED 0", slurm.log(job)
  assert f"{path}/run: cannot write this: Not a directory" in slurm.log(job)
  details = slurm.run("scontrol", "show", "job", "--oneliner", job)
  assert " ExitCode=2:0 " in details


@pytest.mark.slow
@needs_slurm
def test_a_canceled_job_is_not_queued_again(slurm, path, tmp_path):
  run = tmp_path / "run"
  job = slurm.submit(path, run)
  wait_until(lambda: recorded(run, 3), "step 3")
  slurm.run("scancel", job)
  wait_until(lambda: not slurm.is_active(job), "the end")
  assert slurm.state(job) == "CANCELLED 0"


SKYPILOT = yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text())
VOLUME = yaml.safe_load((CLUSTERS / "skypilot_volume.yaml").read_text())
JOBSET = yaml.safe_load((CLUSTERS / "jobset.yaml").read_text())
(HOSTS,) = JOBSET["spec"]["replicatedJobs"]
JOB = HOSTS["template"]["spec"]
(CONTAINER,) = JOB["template"]["spec"]["containers"]


def test_skypilots_schema(monkeypatch, tmp_path):
  # It makes a directory at home, and reports its use.
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setenv("SKYPILOT_DISABLE_USAGE_COLLECTION", "1")
  sky = pytest.importorskip("sky")
  task = sky.Task.from_yaml(str(CLUSTERS / "skypilot.yaml"))
  assert task.num_nodes == 2
  with pytest.raises(Exception, match="did you mean 'num_nodes'"):
    sky.Task.from_yaml_config({**SKYPILOT, "num_node": 2})
  volume = pytest.importorskip("sky.volumes.volume")
  disk = volume.Volume.from_yaml_config(VOLUME)
  disk.validate(skip_cloud_compatibility=True)
  assert [*SKYPILOT["volumes"].values()] == [disk.name]
  (resources,) = task.resources
  assert resources.infra.cloud.lower() == disk.cloud


def test_jobsets_schema():
  models = pytest.importorskip("kubeflow_trainer_api.models")

  def read(values):
    # Unknown keys are dropped.
    return models.JobsetV1alpha2JobSet.from_dict(values).to_dict()

  assert read(JOBSET) == JOBSET
  wrong = copy.deepcopy(JOBSET)
  wrong["spec"]["failurePolicy"]["maxRestart"] = 3
  assert read(wrong) != wrong


def test_the_hosts_of_a_jobset():
  name = JOBSET["metadata"]["name"]
  coordinator = f"{name}-{HOSTS['name']}-0-0.{name}:8476"
  assert f"distributed.coordinator={coordinator}" in CONTAINER["command"]
  count = JOB["parallelism"]
  assert count == JOB["completions"]
  assert f"distributed.num_processes={count}" in CONTAINER["command"]
  (rule,) = JOB["podFailurePolicy"]["rules"]
  assert rule["onExitCodes"]["containerName"] == CONTAINER["name"]


def skypilot_command(config, run, number) -> tuple[list[str], dict[str, str]]:
  settings = {
    **SKYPILOT["envs"],
    "CONFIG": str(config),
    "RUN": str(run),
    "SKYPILOT_NODE_IPS": "localhost\n127.0.0.2",
    "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NODE_RANK": str(number),
  }
  return ["bash", "-c", SKYPILOT["run"]], settings


def jobset_command(config, run, number) -> tuple[list[str], dict[str, str]]:
  (coordinator,) = (w for w in CONTAINER["command"] if ".coordinator=" in w)
  replaced = {
    "--config=configs/sft_tiny.yaml": f"--config={config}",
    "--output=/runs/two-hosts": f"--output={run}",
    coordinator: "distributed.coordinator=localhost:8476",
  }
  words: list[str] = [*CONTAINER["command"]]
  words = [replaced.get(word, word) for word in words]
  assert len({*words} - {*CONTAINER["command"]}) == len(replaced)
  return [w.replace("$(JOB_COMPLETION_INDEX)", str(number)) for w in words], {}


@pytest.mark.slow
@pytest.mark.parametrize("command", [skypilot_command, jobset_command])
def test_commands_of_two_hosts(command, path, tmp_path):
  run, whole = tmp_path / "run", tmp_path / "whole"
  (port,) = free_ports(1)

  def start(number):
    words, settings = command(path, run, number)
    return subprocess.Popen(
      [word.replace("8476", str(port)) for word in words],
      cwd=conftest.ROOT,
      env=os.environ
      | settings
      | {
        "PATH": f"{pathlib.Path(sys.executable).parent}:{PATH}",
        "XLA_FLAGS": conftest.xla_flags(1),
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  test_processes.finish([start(number) for number in (0, 1)])
  recipes.train_sft(dataclasses.replace(CONFIG, mesh=test_meshes.FSDP), whole)
  test_meshes.rows_alike(test_sft.rows(run), test_sft.rows(whole))
  # The same command goes on with the run, which is finished.
  first, _ = test_processes.finish([start(number) for number in (0, 1)])
  assert f"trained model: {run}/checkpoint-final" in first[0]
  assert len(run_manifest.RunManifest.read(run).sessions) == 1
