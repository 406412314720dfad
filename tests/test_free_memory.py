"""What counts as free: the machine's memory, and that of every control group around the process."""

import pytest

from gpustats.engines import resolve
from gpustats.engines.cpu_memory import free_bytes

FREE = 10_000 * 1024
UNLIMITED = 2**63 - 4096


@pytest.fixture
def machine(tmp_path):
    """Write files of a kernel's: the machine has 10,000 KiB free."""

    def write(files):
        for name, content in {
            "proc/meminfo": "MemFree: 1 kB\nMemAvailable: 10000 kB\n",
            **files,
        }.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return write


def unified(group, limit, usage, cache=0):
    """The accounts of a group of version 2."""
    folder = f"sys/fs/cgroup{group}"
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{usage}\n",
        f"{folder}/memory.stat": f"anon 5\nactive_file 7000\ninactive_file {cache}\n",
    }


def by_controller(group, limit, usage, cache=0):
    """The accounts of a group of version 1."""
    folder = f"sys/fs/cgroup/memory{group}"
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{usage}\n",
        f"{folder}/memory.stat": f"inactive_file 1\ntotal_inactive_file {cache}\n",
    }


JOB = {"proc/self/cgroup": "0::/slurm/job_7/step_0\n"}
OLD_JOB = {"proc/self/cgroup": "3:cpuset:/x\n2:cpu,memory:/slurm/job_7\n1:name=systemd:/y\n0::/\n"}
CASES = {
    "no groups": ({}, FREE),
    "no limit": ({**JOB, **unified("/slurm/job_7/step_0", "max", 10)}, FREE),
    "of the step": ({**JOB, **unified("/slurm/job_7/step_0", 5000, 3000)}, 2000),
    "of the job around it": (
        {**JOB, **unified("/slurm/job_7/step_0", "max", 1), **unified("/slurm/job_7", 900, 100)},
        800,
    ),
    "the least": (
        {**JOB, **unified("/slurm/job_7/step_0", 800, 1), **unified("/slurm", 900, 600)},
        300,
    ),
    "not of another job": ({**JOB, **unified("/slurm/job_8", 5, 3)}, FREE),
    "cache counts as free": ({**JOB, **unified("/slurm", 5000, 4000, cache=1500)}, 2500),
    "more than the machine has": ({**JOB, **unified("/slurm", 2 * FREE, 0)}, FREE),
    "over the limit": ({**JOB, **unified("/slurm", 5000, 6000)}, 0),
    "a container's own root": ({**JOB, **unified("", 5000, 3000)}, 2000),
    "a group outside the root": (
        {"proc/self/cgroup": "0::/../other\n", **unified("", 5000, 3000)},
        2000,
    ),
    "version 1": ({**OLD_JOB, **by_controller("/slurm/job_7", 5000, 4000, cache=300)}, 1300),
    "version 1, around it": (
        {**OLD_JOB, **by_controller("/slurm/job_7", UNLIMITED, 7), **by_controller("/slurm", 9, 2)},
        7,
    ),
    "version 1, a container's own root": ({**OLD_JOB, **by_controller("", 5000, 4000)}, 1000),
    "version 1, no limit": ({**OLD_JOB, **by_controller("/slurm", UNLIMITED, 4000)}, FREE),
    "unreadable": ({**JOB, **unified("/slurm", 5000, "")}, FREE),
}


@pytest.mark.parametrize("case", CASES)
def test_free_is_the_least_that_anyone_leaves(machine, case):
    files, expected = CASES[case]
    assert free_bytes(machine(files)) == expected


def test_without_an_account_the_machine_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 7}.get)
    assert free_bytes(tmp_path) == 7 * 4096


def test_the_engine_asks_this_machine():
    assert resolve("cpu").free_bytes is free_bytes
    assert 2**20 < free_bytes() < 2**50
