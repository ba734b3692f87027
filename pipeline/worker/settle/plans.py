"""The plans of the jobs whose tasks are settled: by the plan's id where it is known, else by the record."""

from collections import OrderedDict
from collections.abc import Iterable

from pipeline.author.registry import Registry
from pipeline.ledger import Ledger
from pipeline.wire.plans import JobPlan, plan_from_stage
from pipeline.wire.taskmessage import TaskHeader

#: Plans of other versions and of replays that are kept, under their id and under their job's: a batch asks
#: before it emits and again before it records. A plan takes a few kilobytes, whatever number of jobs has it.
KEPT = 2_000


class Plans:
    """Plans of jobs. Threads share it."""

    def __init__(self, registry: Registry, ledger: Ledger) -> None:
        self._registry = registry
        self._ledger = ledger
        self._own = {plan.id: plan for plan in map(registry.plan, registry.consumed_topics)}
        self._kept: OrderedDict[str, JobPlan] = OrderedDict()

    def of(self, headers: Iterable[TaskHeader]) -> dict[str, JobPlan]:
        """Return by job id the plan of each task's job; reads the records of those that are not known.

        A job without a record, which expired, has the plan that this process's stages make.
        """
        found: dict[str, JobPlan] = {}
        unknown: dict[str, TaskHeader] = {}
        for header in headers:
            plan = self._find(header)
            if plan is None:
                unknown[header.job_id] = header
            else:
                found[header.job_id] = plan
        if unknown:
            pinned = self._ledger.plans(unknown)
            for job_id, header in unknown.items():
                found[job_id] = plan = pinned.get(job_id) or self._made_here(header.stage)
                self._keep(job_id, plan)
        return found

    def _find(self, header: TaskHeader) -> JobPlan | None:
        keys = [key for key in (header.plan, header.job_id) if key]
        return next((plan for key in keys if (plan := self._own.get(key) or self._kept.get(key))), None)

    def _keep(self, job_id: str, plan: JobPlan) -> None:
        # Read anew for each job, so that jobs of one plan share one object.
        plan = self._own.get(plan.id) or self._kept.get(plan.id) or plan
        self._kept[job_id] = self._kept[plan.id] = plan
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _made_here(self, stage: str) -> JobPlan:
        return plan_from_stage(self._registry.routes, self._registry.by_name[stage].route)
