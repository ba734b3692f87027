"""Plans: what a job pins, and its id."""

from dataclasses import replace

from pipeline.wire.plans import JobPlan, Route, plan_from, plan_from_stage

A = Route(name="a", consumes="t1", emits="t2")
B = Route(name="b", consumes="t1", emits="t9")
C = Route(name="c", consumes="t2", is_split=True, ordered=True, queue="own.fifo")


def test_a_plan_is_read_as_it_was_written() -> None:
    """A plan read from a job's record is the same plan with the same id."""
    plan = plan_from([A, B, C], "t1")
    read = JobPlan.read(plan.pairs(), plan.routes_json)
    assert read == plan
    assert read.id == plan.id


def test_the_id_follows_the_content() -> None:
    """A stage added, removed, renamed or moved gives another id; the order of unrelated stages does not."""
    plan = plan_from([A, B, C], "t1")
    other = Route(name="z", consumes="elsewhere")
    assert plan_from([A, B, C, other], "t1").id == plan.id
    assert plan_from([A, B, replace(C, queue="moved.fifo")], "t1").id == plan.id
    changed = [
        [A, B],
        [A, B, replace(C, name="c2")],
        [A, B, replace(C, is_split=False)],
        [replace(A, emits=None), B, C],
    ]
    assert len({plan.id, *(plan_from(routes, "t1").id for routes in changed)}) == 1 + len(changed)


def test_the_plan_says_where_a_path_ends() -> None:
    """A stage ends a path for the jobs whose plan has nothing behind it, whatever was added since."""
    before, after = plan_from([A, B], "t1"), plan_from([A, B, C], "t1")
    assert (before.ends_path("a"), after.ends_path("a")) == (True, False)
    assert (before.ends_path("c"), after.ends_path("c")) == (False, True)
    assert before.terminals == {"a", "b"}
    assert after.terminals == {"b", "c"}


def test_the_plan_says_which_stages_an_event_feeds() -> None:
    """An event feeds the stages of its job's plan."""
    plan = plan_from([A, B, C], "t1")
    assert [route.name for route in plan.consumers("t1")] == ["a", "b"]
    assert plan.consumers("t2") == (replace(C, queue=None),)
    assert plan.consumers("t9") == ()


def test_a_plan_can_start_at_one_stage() -> None:
    """A replay of one stage reaches that stage and what is below it."""
    plan = plan_from_stage([A, B, C], A)
    assert list(plan.stages) == ["a", "c"]
    assert plan.terminals == {"c"}
    assert plan.consumers("t1") == (A,)


def test_a_record_without_routes_still_has_its_terminals() -> None:
    """A job that an earlier version opened has no routes; where its paths end is known all the same."""
    plan = JobPlan.read([["a", ["c"]], ["c", ["c"]]])
    assert plan.terminals == {"c"}
    assert plan.consumers("t1") == ()
    assert (plan.ends_path("a"), plan.ends_path("c")) == (False, True)
