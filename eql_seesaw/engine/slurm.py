"""What Slurm says about a job step."""

import itertools
import re
from collections.abc import Iterator, Mapping

# Ids from here on are Slurm's own steps: the batch script, and the shell of an allocation.
_FIRST_SPECIAL_STEP = 4294967290


def in_step_of_many(environ: Mapping[str, str]) -> bool:
    """
    Whether ``srun`` started this process as one of several.

    The script of ``sbatch`` and the shell of ``salloc`` have SLURM_PROCID and SLURM_NTASKS too,
    but they are in no step. A shell that ``srun --pty bash`` opened is alone in its step.
    """
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", ""))
    if not step.isdecimal() or int(step) >= _FIRST_SPECIAL_STEP or "SLURM_PROCID" not in environ:
        return False
    return num_tasks(environ) > 1


def num_tasks(environ: Mapping[str, str]) -> int:
    """Processes of the step; 1 where Slurm does not say."""
    return int(environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", 1)))


def tasks_per_node(environ: Mapping[str, str]) -> list[int]:
    """
    Processes of the step on each of its nodes.

    Raises:
        ValueError: the variables are absent, or cannot be read.
    """
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"):
        if name in environ:
            return expand_counts(environ[name])
    if "SLURM_NTASKS_PER_NODE" in environ:
        per_node = int(environ["SLURM_NTASKS_PER_NODE"])
        return [per_node] * (num_tasks(environ) // per_node)
    raise ValueError("srun set none of SLURM_STEP_TASKS_PER_NODE and SLURM_TASKS_PER_NODE")


def expand_counts(counts: str) -> list[int]:
    """
    Args:
        counts: as in SLURM_TASKS_PER_NODE: "4(x2),3" is [4, 4, 3].
    """
    expanded = []
    for part in counts.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise ValueError(f"SLURM_TASKS_PER_NODE is {counts!r}; it should be like '4(x2),3'")
        expanded += [int(match[1])] * int(match[2] or 1)
    return expanded


def node_list(environ: Mapping[str, str]) -> list[str]:
    """
    Host names of the step's nodes, or else the job's.

    Raises:
        ValueError: the variables are absent, or cannot be read.
    """
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"):
        if environ.get(name):
            return expand_hosts(environ[name])
    raise ValueError("srun set none of SLURM_STEP_NODELIST and SLURM_JOB_NODELIST")


def expand_hosts(hosts: str) -> list[str]:
    """
    Args:
        hosts: Slurm's short form: "node[03-05,09],gpu-a1", "rack[0-1]n[1-2]-ib".

    Returns:
        All host names in order: node03, node04, node05, node09, gpu-a1.

    Raises:
        ValueError: not such a list.
    """
    entry = r"(?:[^\[\],\s]|\[[\d,-]+\])+"
    if not re.fullmatch(rf"{entry}(?:,{entry})*", hosts):
        raise ValueError(f"Slurm's node list is {hosts!r}; it should be like 'node[03-05,09]'")
    expanded = []
    for name in re.findall(entry, hosts):
        parts = [
            list(_expand_ranges(part[1:-1])) if part.startswith("[") else [part]
            for part in re.findall(r"\[[\d,-]+\]|[^\[\]]+", name)
        ]
        expanded += ["".join(combination) for combination in itertools.product(*parts)]
    return expanded


def master_port(environ: Mapping[str, str]) -> int:
    """A port that all processes of a step agree on, and that other steps rarely share."""
    job, step = environ.get("SLURM_JOB_ID", "0"), environ.get("SLURM_STEP_ID", "0")
    # Below the ports that Linux gives to outgoing connections.
    return 15000 + (31 * int(job) + int(step)) % 15000


def _expand_ranges(ranges: str) -> Iterator[str]:
    """ "03-05,09" -> "03", "04", "05", "09"."""
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            yield str(number).zfill(len(first))
