"""Keys and the shape of the counter's tree: data on disk outlives code."""

from dataclasses import replace

from pipeline.jobs import JobState, PartRef, SplitRef, StageRef
from pipeline.jobs.counter import Node, leaf_of, top_of, width
from pipeline.jobs.keys import Keys

KEYS = Keys(service="orders")
SPLIT = SplitRef(job_id="j", stage="b", split_id="s")


def part(ordinal: int, total: int) -> PartRef:
    """A part of the split."""
    return PartRef(job_id="j", stage="b", split_id="s", ordinal=ordinal, total=total)


def test_keys_stay_as_they_are() -> None:
    """A job that was opened by an earlier version is found by a later one."""
    assert KEYS.meta("j") == ("orders/J#j", "META")
    assert KEYS.stage("j", "b") == ("orders/J#j", "S#b")
    assert KEYS.seal(SPLIT) == ("orders/J#j", "P#b")
    assert KEYS.marker("j", "m") == ("orders/J#j", "M#m")
    assert KEYS.failure(StageRef(job_id="j", stage="b")) == ("orders/J#j", "F#b#run")
    assert KEYS.failure(StageRef(job_id="j", stage="b", gather=True)) == ("orders/J#j", "F#b#gather")
    assert KEYS.failure(SPLIT) == ("orders/J#j", "F#b#split")
    assert KEYS.failure(replace(SPLIT, page=8)) == ("orders/J#j", "F#b#page-8")
    assert KEYS.failure(part(7, 9)) == ("orders/J#j", "F#b#000000007")
    assert KEYS.page("s", "r", 3) == ("orders/P#s#r#3", "-")
    assert KEYS.data_piece("s", "r", 3) == ("orders/P#s#r#d3", "-")
    assert KEYS.result(part(700, 900)) == ("orders/R#s#2", "000000700")
    assert KEYS.index_shards() == ("orders/I", "-")
    assert KEYS.attempts("t", "m") == ("orders/T#t#m", "-")
    assert KEYS.chord("c") == ("orders/H#c", "-")
    assert KEYS.chord_part("c", 2, 2_700, "t") == ("orders/H#c#2", "000002700.t")
    assert leaf_of(part(700, 900)).key(KEYS) == ("orders/L#s#0#2", "-")
    assert leaf_of(part(7, 9)).key(KEYS) == top_of(SPLIT, 900).key(KEYS) == ("orders/L#s#top", "-")


def test_every_partition_key_begins_with_the_prefix_that_policies_grant() -> None:
    """A key with another beginning would be denied, or be another service's."""
    made = [
        KEYS.job("j"),
        KEYS.meta("j")[0],
        KEYS.node("s", 1, 2)[0],
        KEYS.top("s")[0],
        KEYS.page("s", "r", 3)[0],
        KEYS.data_piece("s", "r", 3)[0],
        KEYS.results("s", 1),
        KEYS.attempts("t", "m")[0],
        KEYS.chord("c")[0],
        KEYS.chord_leaf("c", 2),
        KEYS.cancellations(),
        KEYS.turn("sweep")[0],
        KEYS.deployments(),
        *(KEYS.index(state, "j", 0.0, 4)[0] for state in JobState),
        KEYS.index_shards()[0],
        KEYS.entity("ada"),
    ]
    assert [key for key in made if not key.startswith(KEYS.prefix)] == []
    assert "/" not in KEYS.service


def test_the_index_keeps_the_order_of_submission() -> None:
    """Open jobs are in a few shards, closed ones with those of their day, both by time."""
    assert KEYS.index(JobState.RUNNING, "j", 1_700_000_000.5, 4) == ("orders/open#3", "1700000000.500#j")
    assert KEYS.index(JobState.FAILED, "j", 1_700_000_000.5, 4) == (
        "orders/failed#2023-11-14#3",
        "1700000000.500#j",
    )
    early, late = (KEYS.index(JobState.COMPLETE, "j", moment, 4)[1] for moment in (999_999_999.9, 1e9))
    assert early < late


def test_every_part_has_one_leaf_and_every_leaf_one_way_up() -> None:
    """From 0 to a million parts: the children of all nodes of a level are the nodes of the level below."""
    for total in (0, 1, 255, 256, 257, 65_536, 65_537, 1_000_000):
        top = top_of(SPLIT, total)
        assert top.is_top
        below = total
        for level in range(top.level + 1):
            nodes = [
                Node(split=SPLIT, total=total, level=level, index=index)
                for index in range(width(total, level))
            ]
            assert sum(node.children for node in nodes) == below
            assert all(1 <= node.children <= 256 for node in nodes) or total == 0
            below = len(nodes)
        if total:
            node = leaf_of(part(total - 1, total))
            while not node.is_top:
                assert node.parent.child(node.offset) == node
                node = node.parent
            assert node == top
