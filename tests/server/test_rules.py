"""Rules over the task's answers: what they count as found, and when an alert begins and ends."""

import datetime
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rjpeg._zones import Zone
from rjpeg.errors import ConfigError, StorageError
from server import config as configuration
from server.alerts.rules import Finding, Look, Watch, findings, zone_holds
from server.alerts.zones import NamedZones
from server.config import Config, RuleConfig
from server.store import Alert, Store
from tests.server.stores import MEASURES, received

NOON = datetime.datetime(2026, 3, 4, 12, 0, 0, tzinfo=datetime.UTC)
LOWER_HALF = [(0.0, 0.5), (1.0, 0.5), (1.0, 1.0), (0.0, 1.0)]


def at(second: float) -> datetime.datetime:
    return NOON + datetime.timedelta(seconds=second)


def look(second: float, label: str | None = "person", score: float = 0.8, **more) -> Look:
    found = () if label is None else (Finding(label=label, score=score, **more),)
    return Look(camera="door", frame=int(second) + 1, time=at(second), found=found)


def rule(**more) -> RuleConfig:
    return RuleConfig(**({"name": "somebody", "classes": ["person"], "pause": 5.0} | more))


def told(watch: Watch, *looks: Look) -> list[tuple[int, bool]]:
    """(frame, begins) of each alert that begins or ends with a frame; the frames come as they are captured."""
    changes = [(each.frame, watch.look(each, (each.time - NOON).total_seconds())) for each in looks]
    return [(frame, alert.end is None) for frame, alert in changes if alert is not None]


def test_an_alert_begins_with_the_first_frame_and_ends_once_the_class_is_missing_for_long():
    watch = Watch(rule())
    begins = watch.look(look(0, score=0.6), 0.0)
    assert begins == Alert(camera="door", rule="somebody", label="person", score=0.6, frame=1, start=at(0))
    assert told(watch, look(2, score=0.9), look(4, None), look(7, None)) == []
    ends = watch.look(look(7.5, None), 7.5)
    assert (ends.start, ends.end, ends.score) == (at(0), at(2), 0.9)
    assert watch.alert is None


def test_a_short_gap_does_not_end_it_and_another_class_is_a_gap():
    watch = Watch(rule())
    assert told(watch, look(0), look(3, None), look(5, "dog"), look(6), look(10), look(14, None)) == [(1, True)]
    assert told(watch, look(16, "dog")) == [(17, False)]


def test_it_has_to_be_found_for_as_long_as_the_rule_says():
    watch = Watch(rule(seconds=3))
    assert told(watch, look(0), look(1), look(2), look(3)) == [(4, True)]
    assert watch.alert.start == at(0)


def test_a_look_that_is_gone_before_that_is_nothing():
    watch = Watch(rule(seconds=3, pause=1))
    assert told(watch, look(0), look(1, None), look(2.5, None), look(3), look(4)) == []
    assert told(watch, look(6)) == [(7, True)]
    assert watch.alert.start == at(3)


@pytest.mark.parametrize(("score", "begins"), [(0.499, False), (0.5, True)])
def test_the_score_is_the_least_that_counts(score, begins):
    assert bool(told(Watch(rule(score=0.5)), look(0, score=score))) is begins


def test_without_further_frames_it_ends_by_the_clock_only_if_the_class_was_missing_last():
    watch = Watch(rule())
    told(watch, look(0))
    assert watch.tick(1000.0) is None, "a camera that sees nothing new sends nothing"
    told(watch, look(1, None))
    assert watch.tick(4.0) is None
    assert watch.tick(5.5).end == at(0)
    assert watch.tick(100.0) is None


def test_late_frames_say_nothing_and_a_clock_that_was_set_begins_anew():
    watch = Watch(rule())
    assert told(watch, look(100, None), look(50)) == []
    assert told(watch, look(101), look(90, None)) == [(102, True)]
    assert told(watch, look(101 - 7200)) == [(101 - 7200 + 1, False)]
    assert told(watch, look(102 - 7200)) == [(102 - 7200 + 1, True)]


def test_an_alert_of_before_the_start_goes_on():
    before = Alert(id=7, camera="door", rule="somebody", label="person", score=0.9, frame=1, start=at(-60))
    watch = Watch(rule(), before)
    assert told(watch, look(0)) == []
    ends = watch.look(look(20, None), 20.0)
    assert (ends.id, ends.start, ends.end) == (7, at(-60), at(0))


def test_a_zone_counts_the_foot_of_the_box():
    watch = Watch(rule(zone=LOWER_HALF))
    assert told(watch, look(0, foot=(0.5, 0.4)), look(1)) == [], "a finding without a box is nowhere"
    assert told(watch, look(2, foot=(0.5, 0.6))) == [(3, True)]
    assert zone_holds(LOWER_HALF, (0.3, 0.5)), "the edge belongs to it"
    assert zone_holds(None, None)


def test_findings_are_read_off_a_detector_s_and_a_classifier_s_answer():
    answer = [
        {"index": 0, "score": 0.75, "label": "person", "box": [20, 10, 60, 90]},
        {"index": 3, "score": 1},
    ]
    assert list(findings(answer, 200, 100)) == [
        Finding(label="person", score=0.75, foot=(0.2, 0.9)),
        Finding(label="3", score=1.0),
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["score", "label", "index", "box", "x"]), inner),
)


@given(answer=JSON | st.lists(st.dictionaries(st.sampled_from(["score", "label", "index", "box"]), JSON)))
def test_any_answer_gives_findings_or_none(answer):
    watch = Watch(rule(score=-1e30, zone=LOWER_HALF))
    watch.look(Look(camera="a", frame=1, time=NOON, found=tuple(findings(answer, 0, 0))), 0.0)


@pytest.mark.parametrize("huge", [10**400, -(10**400)])
def test_numbers_that_no_float_holds_are_no_finding(huge):
    assert list(findings([{"score": huge, "label": "a"}], 1, 1)) == []
    assert list(findings([{"score": 1, "label": "a", "box": [huge, 0, 0, 0]}], 1, 1)) == [Finding(label="a", score=1.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [{name: a b, classes: [x]}]", "name"),
        ("rules: [{name: a, classes: []}]", "classes"),
        ("rules: [{name: a, classes: [x], zone: [[0, 0], [1, 1]]}]", "zone"),
        ("rules: [{name: a, classes: [x], zone: [[0, 0], [1, 1], [2, 0]]}]", "zone"),
        ("rules: [{name: a, classes: [x], webhook: {url: 'ftp://example.org'}}]", "url"),
        ("rules: [{name: a, classes: [x], webhook: {url: 'http://user:word@example.org'}}]", "url"),
        ("rules: [{name: a, classes: [x]}, {name: a, classes: [y]}]", "a is the name of several"),
        ("mqtt: {broker: 'http://example.org'}", r"mqtt\.broker"),
        ("mqtt: {classes: person}", "classes"),
    ],
)
def test_a_wrong_rule_is_an_error_that_names_it(text, message, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        configuration.check(configuration.load(tmp_path / "config.yaml"))


def test_a_secret_in_a_url_is_not_repeated(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "rules: [{name: a, classes: [x], webhook: {url: 'http://user:word@example.org'}}]"
    )
    with pytest.raises(ConfigError) as caught:
        configuration.load(tmp_path / "config.yaml")
    assert "word" not in str(caught.value)


def test_without_rules_nothing_is_watched():
    assert Config().rules == []
    assert Config().mqtt.broker is None


def test_a_rule_may_name_zones_that_were_drawn_and_finds_nothing_where_there_are_none_of_the_name():
    watch = Watch(rule(zone="door"))
    zones = {"door": [LOWER_HALF, [(0.0, 0.0), (0.2, 0.0), (0.2, 0.2)]], "yard": [[(0, 0), (1, 0), (1, 1)]]}
    looks = [look(number, foot=foot) for number, foot in enumerate([(0.9, 0.1), None, (0.5, 0.8)])]
    assert told(watch, *(replace(each, zones=zones) for each in looks)) == [(3, True)]
    for named in ({}, {"gate": [LOWER_HALF]}):
        assert told(Watch(rule(zone="door")), replace(looks[2], zones=named)) == []
    assert told(Watch(rule(zone="door")), replace(look(0, foot=(0.15, 0.1)), zones=zones)) == [(1, True)]


def test_named_zones_are_the_newest_and_those_of_before_while_the_store_is_away(store: Store, monkeypatch):
    store.add(received("gate", 1), MEASURES, None)
    zones = NamedZones(store.zones)
    assert zones.of("gate") == zones.of("nobody") == {}
    drawn = [Zone("watched", LOWER_HALF, "door"), Zone("ignored", LOWER_HALF), Zone("private", LOWER_HALF, "door")]
    store.zones.write("gate", drawn, NOON)
    assert zones.of("gate") == {"door": [LOWER_HALF, LOWER_HALF]}
    assert zones.of("gate") is zones.of("gate")

    def away(*_):
        raise StorageError("away")

    with monkeypatch.context() as patch:
        store.zones.write("gate", [], NOON)
        patch.setattr(store.zones, "read", away)
        assert list(zones.of("gate")) == ["door"]
    assert zones.of("gate") == {}
