"""One run in this process."""

from __future__ import annotations

from roadmap.config.designs import Layout
from roadmap.config.schema import Design, SpecError
from roadmap.records.manifest import add_runs
from roadmap.records.record import (
    COMPLETED,
    finished_record,
    run_folder,
)
from roadmap.runtime import lock
from roadmap.runtime.progress import LEADS, TEAM, say
from roadmap.sweep.errors import RunFailed
from roadmap.sweep.estimate import estimate_runtime
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.run_process import summarize_record


def run_single(job: PlannedRun) -> None:
    """One run in this process. Raises RunFailed if it fails or diverges, Stopped after a signal."""
    if job.spec.reference is not None:
        raise SpecError(
            f"reference={job.spec.reference}: goes with a study; alone it is +transform={job.spec.reference}"
        )
    if job.spec.design.name is not Design.grid:
        name = job.spec.design.name.value
        raise SpecError(f"design.name={name}: goes with a study, as +study={name}")
    if job.spec.plan:
        say(estimate_runtime([job]))
        return
    folder = run_folder(job.spec)
    content = None if job.spec.force or TEAM else finished_record(job.spec)
    if content is not None:
        say(f"{job.title}: finished before, {summarize_record(content)}; force=true repeats it")
    else:
        from roadmap.training.run import run

        if LEADS and lock.is_held(folder):
            say(f"{job.title}: another process is at it; waiting for that")
        say(job.title)
        content = run(job.spec, job.command, wait=True)
        say(f"{job.title}: {summarize_record(content)}")
    if LEADS:
        add_runs([(job.spec, job.words)], Layout())
    say(f"record: {folder / 'record.json'}")
    if content["status"] != COMPLETED:
        raise RunFailed(f"{job.title}: {content['status']}")
