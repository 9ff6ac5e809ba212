from __future__ import annotations

from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.telemetry.metrics import OTHER
from meshproxy.telemetry.model_labels import LATEST, NONE, ModelLabels


def predict(name: str, version: str | None = None, label: str | None = None) -> Call:
    return Call(Verb.PREDICT, (ModelRef(name, version, label),))


def test_no_model_is_not_an_unknown_one() -> None:
    labels = ModelLabels()
    assert labels.read(None, was_served=False) == (NONE, NONE)
    assert labels.read(Call(Verb.METRICS), was_served=True) == (NONE, NONE)


def test_what_the_documents_mention_needs_no_proof() -> None:
    labels = ModelLabels()
    labels.mention(["fraud"], ["7", "canary"])
    assert labels.read(predict("fraud"), was_served=False) == ("fraud", LATEST)
    assert labels.read(predict("fraud", "7"), was_served=False) == ("fraud", "7")
    assert labels.read(predict("fraud", label="canary"), was_served=False) == ("fraud", "canary")
    assert labels.read(predict("fraud", "8"), was_served=False) == ("fraud", OTHER)
    assert labels.read(predict("spam", "7"), was_served=False) == (OTHER, OTHER)


def test_a_glob_mentions_nothing() -> None:
    labels = ModelLabels()
    labels.mention(["half_*", "half_plus_?"])
    assert labels.read(predict("half_*"), was_served=False) == (OTHER, OTHER)
    assert labels.read(predict("half_plus_?"), was_served=False) == (OTHER, OTHER)


def test_what_was_served_is_real_from_then_on() -> None:
    labels = ModelLabels()
    assert labels.read(predict("fraud", "3"), was_served=True) == ("fraud", "3")
    assert labels.read(predict("fraud", "3"), was_served=False) == ("fraud", "3")
    assert labels.read(predict("fraud", "4"), was_served=False) == ("fraud", OTHER)


def test_an_administrators_success_proves_nothing() -> None:
    labels = ModelLabels()
    call = Call(Verb.RELOAD, (ModelRef("fraud"),))
    assert labels.read(call, was_served=True) == (OTHER, OTHER)


def test_served_names_and_versions_are_bounded() -> None:
    labels = ModelLabels(max_models=2, max_versions=3)
    labels.mention(["mentioned"])
    names = {labels.read(predict(f"m{number}"), was_served=True)[0] for number in range(10)}
    assert names == {"m0", "m1", OTHER}
    assert labels.read(predict("mentioned"), was_served=True) == ("mentioned", LATEST)
    versions = {labels.read(predict("m0", str(number)), was_served=True)[1] for number in range(10)}
    assert versions == {"0", "1", "2", OTHER}


def test_names_that_no_label_should_have() -> None:
    labels = ModelLabels()
    for name in ("x" * 129, "a\nb", "a\x1b[31m", "a\udc80", ""):
        assert labels.read(predict(name), was_served=True) == (OTHER, OTHER)
    assert labels.read(predict("x" * 128), was_served=True)[0] == "x" * 128


def test_several_models_have_no_label_unless_they_are_one() -> None:
    labels = ModelLabels()
    labels.mention(["a", "b"])
    assert labels.read(Call(Verb.MULTI_INFERENCE, (ModelRef("a"), ModelRef("b"))), was_served=True) == (OTHER, OTHER)
    same = Call(Verb.MULTI_INFERENCE, (ModelRef("a", signature="x"), ModelRef("a", signature="y")))
    assert labels.read(same, was_served=True) == ("a", LATEST)


def test_the_version_that_answered_is_that_of_a_call_which_names_none() -> None:
    labels = ModelLabels()
    labels.mention(["a"])
    assert labels.read(predict("a"), was_served=False, effective="7") == ("a", OTHER)
    assert labels.read(predict("a"), was_served=True, effective="7") == ("a", "7")
    assert labels.read(predict("a"), was_served=False, effective="7") == ("a", "7")
    assert labels.read(predict("a", "5"), was_served=True, effective="7") == ("a", "5")
    assert labels.read(predict("a", label="stable"), was_served=True, effective="7") == ("a", "stable")
    assert labels.read(predict("b"), was_served=False, effective="7") == (OTHER, OTHER)


def test_a_reload_replaces_what_is_mentioned_and_keeps_what_was_served() -> None:
    labels = ModelLabels()
    labels.mention(["old"], ["1"])
    labels.read(predict("old", "9"), was_served=True)
    labels.read(predict("served", "2"), was_served=True)
    labels.mention(["new"])
    assert labels.read(predict("old", "9"), was_served=False) == (OTHER, OTHER)
    assert labels.read(predict("new", "1"), was_served=False) == ("new", OTHER)
    assert labels.read(predict("served", "2"), was_served=False) == ("served", "2")
    # Versions of a model that is gone are forgotten with it.
    labels.mention(["old"])
    assert labels.read(predict("old", "9"), was_served=False) == ("old", OTHER)
